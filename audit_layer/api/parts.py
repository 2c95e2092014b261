"""What the HTTP routes work with, and queries that several interfaces share."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Engine

from audit_layer.api.schemas import StatusView
from audit_layer.api.tokens import Tokens
from audit_layer.costs.service import Costs
from audit_layer.log.files import PublishedFiles
from audit_layer.log.proof_service import ProofService
from audit_layer.log.tile_table import log_size
from audit_layer.storage.engine import transaction
from audit_layer.trail.service import Trail
from audit_layer.trail.standings import Standings
from shared.runtime.errors import Code, CounterfoilError

EPOCH_TYPES: Final = ("epoch-open", "epoch-seal", "draw")


@dataclass(frozen=True, slots=True)
class Parts:
    """The use cases behind the query API."""

    origin: str
    engine: Engine
    trail: Trail
    standings: Standings
    proofs: ProofService
    files: PublishedFiles
    costs: Costs
    tokens: Tokens
    check_health: Callable[[], None]
    """Raises whatever keeps the log from continuing."""


def status_of(origin: str, engine: Engine, trail: Trail, proofs: ProofService | None) -> StatusView:
    """Return the figures of the log and the trail; without `proofs` nothing counts as witnessed."""
    try:
        checkpoint = proofs.witnessed().checkpoint if proofs is not None else None
    except CounterfoilError as error:
        if error.code is not Code.NOT_WITNESSED:
            raise
        checkpoint = None
    with transaction(engine) as connection:
        size = log_size(connection)
    counts = trail.status()
    findings = counts.pop("findings", 0)
    return StatusView(
        origin=origin,
        size=size,
        witnessed_size=checkpoint.size if checkpoint else None,
        witnessed_root=checkpoint.root.hex() if checkpoint else None,
        statements=dict(sorted(counts.items())),
        findings=findings,
    )
