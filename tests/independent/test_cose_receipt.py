"""Another author's COSE verifies our COSE Receipts of inclusion, and refuses spoiled ones: JavaScript from npm.

`npm install --prefix tests/independent` once makes these tests run; under CI they must not be skipped.
"""

import json
import shutil
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from shared.translog.cose_receipt import issue_receipt
from shared.translog.proofs import inclusion_proof, lookup_in, root_at
from shared.translog.tree import leaf_hash
from tests.independent.tools import need, run

HERE = Path(__file__).parent
VECTORS = HERE.parent / "vectors" / "translog" / "cose_receipt.json"


@pytest.fixture(autouse=True)
def installed() -> None:
    need(shutil.which("node") is not None, "Node.js is not installed")
    need(
        (HERE / "node_modules" / "@auth0" / "cose").is_dir(),
        "the packages are not installed: npm install --prefix tests/independent",
    )


async def verdicts(items: list[dict[str, str]]) -> list[str]:
    status, said = await run(
        "node", HERE / "cose_receipt.mjs", given=json.dumps(items).encode(), limit_s=60.0
    )
    assert status == 0, said
    found: list[str] = json.loads(said)
    return found


async def test_receipts_from_trees_of_many_shapes_verify():
    key = Ed25519PrivateKey.from_private_bytes(b"\x07" * 32)
    public = key.public_key().public_bytes_raw().hex()
    entries = [sha256(bytes([n])).digest() for n in range(70)]
    lookup = lookup_in([leaf_hash(entry) for entry in entries])
    items = []
    for size in (1, 2, 3, 7, 8, 9, 64, 65, 70):
        root = root_at(size, lookup)
        for index in {0, size // 2, size - 1}:
            path = inclusion_proof(index, size, lookup)
            receipt = issue_receipt(entries[index], index, size, path, root, key=key)
            items.append({"receipt": receipt.hex(), "entry": entries[index].hex(), "key": public})
    assert set(await verdicts(items)) == {"ok"}


async def test_the_vectors_are_judged_as_their_codes_say():
    vectors = json.loads(VECTORS.read_text(encoding="utf-8"))
    assert set(await verdicts(vectors["valid"])) == {"ok"}
    # A stock COSE knows nothing of our stricter rules of form, so spoils of form are not asked for.
    wrong = [item for item in vectors["spoiled"] if item["code"] != "MALFORMED"]
    judged = dict(zip((item["name"] for item in wrong), await verdicts(wrong), strict=True))
    assert len(judged) > 3
    assert "ok" not in judged.values(), judged
