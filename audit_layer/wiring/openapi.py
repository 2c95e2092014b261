"""`python -m audit_layer.wiring.openapi` prints the query API's schema; `docs/openapi.json` holds it."""

import json
import sys
from pathlib import Path
from typing import Any

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
from shared.translog.notes import SignatureType, Signer
from shared.translog.policy import LogPolicy


def schema() -> dict[str, Any]:
    """Return the schema; no connection is made, since a schema depends on no data."""
    engine = make_engine("postgresql://localhost/nothing")
    batcher = Batcher(Sequencer(engine))
    try:
        log = Signer.generate("schema", SignatureType.ED25519).verifier
        witness = Signer.generate("schema-witness", SignatureType.COSIGNATURE_ED25519).verifier
        files = PublishedFiles(FolderStore(Path("nowhere")))
        parts = Parts(
            origin="schema",
            engine=engine,
            trail=Trail(engine, batcher, frozenset()),
            proofs=ProofService(engine, files, LogPolicy((log,), (witness,), 1)),
            files=files,
            costs=Costs(engine),
            tokens=Tokens(engine),
            check_health=lambda: None,
        )
        described = create_app(parts).openapi()
    finally:
        batcher.close()
        engine.dispose()
    described["info"]["version"] = "1"  # of the interface, which does not change with each release
    return described


def schema_text() -> str:
    """Return the schema as the file holds it."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(schema_text())
