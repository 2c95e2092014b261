"""Others' code verifies every signature of a checkpoint: OpenSSL the Ed25519 ones, dilithium-py those of ML-DSA-44.

The signed messages are put together here as C2SP signed-note and tlog-cosignature say, without our own code.
"""

import base64
import re
import shutil
import struct
from hashlib import sha256
from pathlib import Path

from dilithium_py.ml_dsa import ML_DSA_44

from tests.audit_layer.api.published import PublishedLog
from tests.independent.tools import need, run

ED25519_SPKI = bytes.fromhex("302a300506032b6570032100")
"""RFC 8410: what comes before the 32 bytes of a public key in DER."""
LINE = re.compile("— ([^ ]+) ([A-Za-z0-9+/=]+)")


async def openssl_accepts(folder: Path, key: bytes, message: bytes, signature: bytes) -> bool:
    pem = base64.b64encode(ED25519_SPKI + key).decode()
    (folder / "key").write_text(f"-----BEGIN PUBLIC KEY-----\n{pem}\n-----END PUBLIC KEY-----\n")
    (folder / "message").write_bytes(message)
    (folder / "signature").write_bytes(signature)
    status, said = await run(
        "openssl", "pkeyutl", "-verify", "-pubin", "-inkey", folder / "key", "-rawin",
        "-in", folder / "message", "-sigfile", folder / "signature",
    )  # fmt: skip
    assert ("Verified Successfully" in said) is (status == 0), said
    assert status == 0 or "Verification Failure" in said, said
    return status == 0


def ed25519_cosigned(text: str, time: int) -> bytes:
    return f"cosignature/v1\ntime {time}\n{text}".encode()


def mldsa44_cosigned(text: str, cosigner: str, time: int) -> bytes:
    origin, size, root, _ = text.split("\n")
    message = b"subtree/v1\n\0" + bytes([len(cosigner)]) + cosigner.encode()
    message += struct.pack(">Q", time) + bytes([len(origin)]) + origin.encode()
    return message + struct.pack(">QQ", 0, int(size)) + base64.b64decode(root)


async def test_each_signature_of_a_published_checkpoint_verifies_with_others_code(
    log: PublishedLog, tmp_path: Path
):
    need(shutil.which("openssl") is not None, "OpenSSL's command is not installed")
    note = await log.grow(0, 5)
    text, lines = note.split("\n\n")
    text += "\n"
    keys = {}
    for vkey in (*log.vkeys, *log.settings.witnesses[0].vkeys):
        name, key_id, encoded = vkey.split("+", 2)
        material = base64.b64decode(encoded)
        assert sha256(name.encode() + b"\n" + material).digest()[:4].hex() == key_id
        keys[name, key_id] = material
    seen = []
    for name, encoded in LINE.findall(lines):
        blob = base64.b64decode(encoded)
        kind, key = keys[name, blob[:4].hex()][0], keys[name, blob[:4].hex()][1:]
        time = int.from_bytes(blob[4:12], "big")
        if kind == 0x01:
            assert await openssl_accepts(tmp_path, key, text.encode(), blob[4:])
            assert not await openssl_accepts(tmp_path, key, text.encode() + b"\n", blob[4:])
        elif kind == 0x04:
            for moved in (0, 1):
                message = ed25519_cosigned(text, time + moved)
                assert await openssl_accepts(tmp_path, key, message, blob[12:]) is (moved == 0)
        else:
            assert kind == 0x06
            for moved in (0, 1):
                message = mldsa44_cosigned(text, name, time + moved)
                assert ML_DSA_44.verify(key, message, blob[12:]) is (moved == 0)
        seen.append(kind)
    assert sorted(seen) == [0x01, 0x04, 0x06, 0x06]
