"""`python -m audit_layer.wiring.openapi` prints the query API's schema; `docs/openapi.json` holds it."""

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from audit_layer.api.http import create_app
from audit_layer.api.parts import Parts
from audit_layer.api.tokens import Tokens
from audit_layer.costs.service import Costs
from audit_layer.log.batcher import Batcher
from audit_layer.log.files import PublishedFiles
from audit_layer.log.folder_store import FolderStore
from audit_layer.log.proof_service import ProofService
from audit_layer.log.sequencer import Sequencer
from audit_layer.storage.engine import make_engine
from audit_layer.trail.service import Trail
from audit_layer.trail.standings import Standings
from shared.translog.notes import SignatureType, Signer
from shared.translog.policy import LogPolicy


@contextlib.contextmanager
def described_app() -> Iterator[FastAPI]:
    """Build the query API as it is served; no connection is made, since a schema depends on no data."""
    engine = make_engine("postgresql://localhost/nothing")
    batcher = Batcher(Sequencer(engine))
    try:
        log = Signer.generate("schema", SignatureType.ED25519).verifier
        witness = Signer.generate("schema-witness", SignatureType.COSIGNATURE_ED25519).verifier
        files = PublishedFiles(FolderStore(Path("nowhere")))
        yield create_app(
            Parts(
                origin="schema",
                engine=engine,
                trail=Trail(engine, batcher, frozenset()),
                standings=Standings(engine),
                proofs=ProofService(engine, files, LogPolicy((log,), (witness,), 1)),
                files=files,
                costs=Costs(engine),
                tokens=Tokens(engine),
                check_health=lambda: None,
            )
        )
    finally:
        batcher.close()
        engine.dispose()


def schema() -> dict[str, Any]:
    """Return the schema."""
    with described_app() as app:
        described = app.openapi()
    described["info"]["version"] = "1"  # of the interface, which does not change with each release
    return described


def schema_text() -> str:
    """Return the schema as the file holds it."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(schema_text())
