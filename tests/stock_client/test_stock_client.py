"""A stock gRPC client in another language lists the audit API and calls it: JavaScript with packages from npm.

`npm install --prefix tests/stock_client` once makes this test run; under CI it must not be skipped.
"""

import asyncio
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from audit_layer.wiring.audit_settings import load_settings
from audit_layer.wiring.log_keys import log_policy
from shared.proto.counterfoil.audit.v1 import audit_pb2
from shared.runtime.errors import Code
from shared.runtime.tls import LocalCA
from shared.statements.cose import entry_of
from shared.translog.policy import verify_witnessed
from shared.translog.tlog_proof import verify_tlog_proof
from tests.audit_layer.api import statements as made
from tests.audit_layer.served import World, call, until, world

__all__ = ["world"]

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check that there is a Node.js with the packages, and let the server tell what can be called."""
    missing = None
    if shutil.which("node") is None:
        missing = "Node.js is not installed"
    elif not (HERE / "node_modules" / "@grpc" / "grpc-js").is_dir():
        missing = "the packages are not installed: npm install --prefix tests/stock_client"
    if missing and os.environ.get("CI"):
        pytest.fail(missing)
    if missing:
        pytest.skip(missing)
    monkeypatch.setenv("COUNTERFOIL_AUDIT_REFLECTION", "true")


async def run(address: str, ca_file: Path, request: dict[str, str]) -> tuple[int, bytes, bytes]:
    process = await asyncio.create_subprocess_exec(
        "node", str(HERE / "client.js"), address, str(ca_file),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, errors = await process.communicate(json.dumps(request).encode())
    assert process.returncode is not None
    return process.returncode, out, errors


async def test_a_stock_client_lists_the_api_by_reflection_and_calls_it_over_tls(world: World):
    statement = made.revocation("alpha", world.filled.bundles["alpha"])  # anybody may bring it
    receipt = world.filled.receipts["acme"][0]
    async with world.stubs() as (_, log, _directory):
        request = audit_pb2.GetProofRequest(entry=receipt)
        await until(lambda: call(log.GetProof, request), Code.NOT_WITNESSED)
    code, out, errors = await run(
        world.grpc, world.ca, {"statement": statement.hex(), "proof_of": receipt.hex()}
    )
    assert code == 0, errors.decode()
    told: dict[str, Any] = json.loads(out)
    assert set(told["services"]) == {
        "counterfoil.audit.v1.Directory", "counterfoil.audit.v1.Intake", "counterfoil.audit.v1.Log",
        "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection",
    }  # fmt: skip
    assert told["methods"] == {
        "counterfoil.audit.v1.Directory": ["GetRateCards", "ListIdentityKeys", "ListKeyBundles"],
        "counterfoil.audit.v1.Intake": ["Deposit", "Submit"],
        "counterfoil.audit.v1.Log": ["GetCheckpoint", "GetConsistency", "GetProof"],
    }
    assert told["health"] == {"status": "SERVING"}
    assert told["health_of_nothing"]["error"]["status"] == "NOT_FOUND"

    policy = log_policy(load_settings(world.config))
    inclusion = verify_tlog_proof(told["proof"]["tlog_proof"], receipt, policy)
    assert str(inclusion.index) == told["proof"]["index"]
    assert verify_witnessed(told["checkpoint"]["note"], policy).checkpoint.size > inclusion.index

    taken, refused = told["submitted"]["results"]
    assert (taken["result"], refused["result"]) == ("sequenced", "rejected")
    assert taken["sequenced"]["entry"] == entry_of(statement).hex()
    assert refused["rejected"]["code"] == "MALFORMED"
    listed = {entry_of(bytes.fromhex(item["statement"])) for item in told["bundles"]}
    assert listed == {*world.filled.bundles.values()}

    assert told["unknown"]["error"]["status"] == "NOT_FOUND"
    assert told["without_deadline"]["error"]["status"] == "INVALID_ARGUMENT"
    assert "deadline" in told["without_deadline"]["error"]["details"]


async def test_a_stock_client_believes_no_other_authority(world: World, tmp_path: Path):
    other = LocalCA.load_or_create(tmp_path / "another ca")
    code, out, errors = await run(
        world.grpc, other.ca_file, {"statement": "", "proof_of": "00" * 32}
    )
    assert code == 1
    assert out == b""
    assert b"UNAVAILABLE" in errors or b"certificate" in errors
