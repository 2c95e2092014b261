"""All of `log fsck`: the log against itself, its files, the second place and timestamps; the trail against the signed bytes."""

from collections.abc import Iterator, Sequence
from typing import Final

from cryptography.x509 import Certificate
from sqlalchemy import Engine, case, select

from audit_layer.log.files import PublishedFiles
from audit_layer.log.fsck import fsck
from audit_layer.log.second_place import SecondPlace
from audit_layer.log.timestamp_table import check_timestamps
from audit_layer.storage.engine import session, transaction
from audit_layer.trail.admission import receipt_domain
from audit_layer.trail.fsck import check_trail
from audit_layer.trail.models import ReceiptRow, RefusalRow, StatementRow
from shared.runtime.errors import CounterfoilError
from shared.statements.cose import read_as
from shared.statements.refusals import refusal_domain
from shared.statements.seals import TenantSeal, seal_domain
from shared.translog.policy import LogPolicy

_PAGE: Final = 4096


def check_all(
    engine: Engine,
    *,
    policy: LogPolicy,
    files: PublishedFiles,
    second_place: SecondPlace,
    anchors: Sequence[Certificate] = (),
) -> list[str]:
    """Return what is wrong, one line each; an empty list means that everything is as it was signed."""
    found = fsck(
        engine, policy=policy, files=files, second_place=second_place, identify=_Identify(engine)
    )
    with transaction(engine) as connection:
        stamps = list(check_timestamps(connection, policy.logs[0].name, anchors))
    return [*map(str, found), *stamps, *check_trail(engine)]


class _Identify:
    """Gives the key under which the trail's statement belongs in the log; reads ahead, since fsck walks in order."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._page: dict[int, tuple[bytes, bytes, int | None]] = {}
        self._end = 0

    def __call__(self, index: int, entry: bytes) -> tuple[bytes, int | None] | None:
        if index >= self._end:
            self._page = dict(self._read(index))
            self._end = index + _PAGE
        held = self._page.get(index)
        if held is None or held[0] != entry:
            return None  # check_trail reports it
        return held[1], held[2]

    def _read(self, first: int) -> Iterator[tuple[int, tuple[bytes, bytes, int | None]]]:
        with session(self._engine) as db:
            rows = db.execute(
                select(
                    StatementRow.log_index,
                    StatementRow.entry,
                    StatementRow.signer,
                    case((StatementRow.type == TenantSeal.TYPE, StatementRow.raw)),
                    ReceiptRow.operator,
                    ReceiptRow.node,
                    ReceiptRow.node_sequence,
                    RefusalRow.order_entry,
                )
                .outerjoin(ReceiptRow, ReceiptRow.entry == StatementRow.entry)
                .outerjoin(RefusalRow, RefusalRow.entry == StatementRow.entry)
                .where(StatementRow.log_index >= first, StatementRow.log_index < first + _PAGE)
            ).all()
        for index, entry, signer, seal, operator, node, number, refused in rows:
            if seal is not None:
                yield index, (entry, *_seal_key(seal, signer))
            elif refused is not None:
                yield index, (entry, refusal_domain(refused), 0)
            else:
                yield index, (entry, _domain(signer, operator, node), number)


def _domain(signer: bytes, operator: str | None, node: str | None) -> bytes:
    """Return the number domain: the node's for a receipt, the signing key's for the rest."""
    return signer if operator is None or node is None else receipt_domain(operator, node)


def _seal_key(raw: bytes, signer: bytes) -> tuple[bytes, int | None]:
    """Return the number domain of a tenant's seal, and its number; an unreadable one is check_trail's to report."""
    try:
        seal = read_as(TenantSeal, raw)
    except CounterfoilError:
        return signer, None
    return seal_domain(seal.tenant), seal.number
