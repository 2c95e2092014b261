"""Write the vectors of the log's section: `python -m tests.vectors.generate_translog [--freeze]`.

Each file holds one kind of object: valid ones, and for each way of spoiling one a case with the
error code that a verifier must raise. Binary values are hex. Everything is a function of fixed
seeds, except `witnessed.frozen.json`: ML-DSA-44 signatures are randomised, so that file is made
once, by `--freeze`.
"""

import base64
import json
import sys
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from shared.codec import cbor
from shared.translog.checkpoint import Checkpoint
from shared.translog.cose_receipt import issue_receipt
from shared.translog.cosignature import cosign
from shared.translog.notes import Note, SignatureType, Signer
from shared.translog.proofs import consistency_proof, inclusion_proof, lookup_in, root_at
from shared.translog.signed_checkpoint import sign
from shared.translog.tiles import Tile, files_grown
from shared.translog.tlog_proof import TlogProof
from shared.translog.tree import leaf_hash

FOLDER = Path(__file__).parent / "translog"
FROZEN = "witnessed.frozen.json"
ORIGIN = "log.example/vectors"
SIZES = (0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 64, 100, 255, 256, 257, 300)
TIME = 1_700_000_000
Json = dict[str, Any]


def entry(index: int) -> bytes:
    """Entry i of the vectors' tree is SHA-256(u64 i)."""
    return sha256(index.to_bytes(8, "big")).digest()


LEAVES = [leaf_hash(entry(index)) for index in range(max(SIZES))]
LOOKUP = lookup_in(LEAVES)
LOG = Signer(ORIGIN, SignatureType.ED25519, sha256(b"log").digest())
WITNESSES = tuple(
    Signer(f"w{n}.example", SignatureType.COSIGNATURE_ED25519, sha256(b"witness %d" % n).digest())
    for n in range(3)
)


def root(size: int) -> bytes:
    return root_at(size, LOOKUP)


def tree() -> Json:
    return {
        "entry": "entry i is SHA-256(u64 i)",
        "leaf_hashes": [leaf.hex() for leaf in LEAVES[:4]],
        "roots": {str(size): root(size).hex() for size in SIZES},
    }


def tiles() -> Json:
    indexes = (0, 7, 999, 1000, 1234067, 10**9)
    return {
        "paths": [
            {"level": tile.level, "index": tile.index, "width": tile.width, "path": tile.path}
            for tile in (
                *(Tile(0, index) for index in indexes),
                Tile(1, 5, 17),
                Tile(-1, 1234067, 255),
                Tile(-1, 0),
            )
        ],
        "not_paths": [
            "tile/0/0",
            "tile/0/1000",
            "tile/0/x001",
            "tile/0/x000/001",
            "tile/00/000",
            "tile/64/000",
            "tile/0/000.p/0",
            "tile/0/000.p/256",
            "tile/0/000.p/01",
            "tile/0/000/",
            "tile/0/../000",
            "tile/-1/000",
            "tile/entries",
            "tile/entries/000.p",
            "/tile/0/000",
            "tile/0/000\n",
        ],
        "files_of_70000": [tile.path for tile in files_grown(69_990, 70_000)],
    }


def flip(value: str, at: int = 0) -> str:
    data = bytearray.fromhex(value)
    data[at] ^= 1
    return data.hex()


def cases_of(valid: Json, ways: Sequence[tuple[str, Callable[[Json], object], str]]) -> list[Json]:
    """Apply each way of spoiling to a copy of the valid object."""
    cases = []
    for name, spoil, code in ways:
        copy = json.loads(json.dumps(valid))
        spoil(copy)
        cases.append({"name": name, "code": code, **copy})
    return cases


def inclusion() -> Json:
    def case(index: int, size: int) -> Json:
        return {
            "leaf": LEAVES[index].hex(),
            "index": index,
            "size": size,
            "proof": [value.hex() for value in inclusion_proof(index, size, LOOKUP)],
            "root": root(size).hex(),
        }

    places = [(0, 1), (0, 2), (1, 2), (2, 3), (6, 7), (0, 100), (63, 100), (99, 100), (256, 257)]
    bad = "BAD_PROOF"
    spoiled = cases_of(
        case(63, 100),
        [
            ("leaf changed", lambda c: c.update(leaf=flip(c["leaf"])), bad),
            ("leaf short", lambda c: c.update(leaf=c["leaf"][2:]), bad),
            ("root changed", lambda c: c.update(root=flip(c["root"], 31)), bad),
            ("root long", lambda c: c.update(root=c["root"] + "00"), bad),
            ("index changed", lambda c: c.update(index=62), bad),
            ("index at the size", lambda c: c.update(index=100), bad),
            ("index beyond the size", lambda c: c.update(index=2**62), bad),
            ("index below zero", lambda c: c.update(index=-1), bad),
            ("size zero", lambda c: c.update(size=0, index=0, proof=[]), bad),
            ("size smaller", lambda c: c.update(size=64), bad),
            ("size larger", lambda c: c.update(size=129), bad),
            ("size beyond 2^63-1", lambda c: c.update(size=2**63), bad),
            ("hash changed", lambda c: c["proof"].__setitem__(3, flip(c["proof"][3])), bad),
            ("hash short", lambda c: c["proof"].__setitem__(3, c["proof"][3][2:]), bad),
            ("first hash missing", lambda c: c["proof"].pop(0), bad),
            ("last hash missing", lambda c: c["proof"].pop(), bad),
            ("trailing hash", lambda c: c["proof"].append(c["proof"][0]), bad),
            ("hashes exchanged", lambda c: c["proof"].insert(0, c["proof"].pop(1)), bad),
            ("empty proof", lambda c: c.update(proof=[]), bad),
        ],
    )
    return {"valid": [case(*place) for place in places], "spoiled": spoiled}


def consistency() -> Json:
    def case(old: int, new: int) -> Json:
        return {
            "old_size": old,
            "old_root": root(old).hex(),
            "new_size": new,
            "new_root": root(new).hex(),
            "proof": [value.hex() for value in consistency_proof(old, new, LOOKUP)],
        }

    places = [(0, 0), (0, 7), (1, 1), (1, 2), (2, 3), (3, 7), (4, 8), (6, 8), (33, 100), (100, 300)]
    places += [(64, 100), (256, 257), (300, 300)]
    bad = "BAD_PROOF"
    spoiled = cases_of(
        case(33, 100),
        [
            ("old root changed", lambda c: c.update(old_root=flip(c["old_root"])), bad),
            ("new root changed", lambda c: c.update(new_root=flip(c["new_root"])), bad),
            ("old root short", lambda c: c.update(old_root=c["old_root"][2:]), bad),
            ("sizes exchanged", lambda c: c.update(old_size=100, new_size=33), bad),
            ("old size changed", lambda c: c.update(old_size=34), bad),
            ("new size changed", lambda c: c.update(new_size=64), bad),
            ("old size below zero", lambda c: c.update(old_size=-1), bad),
            ("new size beyond 2^63-1", lambda c: c.update(new_size=2**63), bad),
            ("hash changed", lambda c: c["proof"].__setitem__(2, flip(c["proof"][2])), bad),
            ("hash long", lambda c: c["proof"].__setitem__(2, c["proof"][2] + "00"), bad),
            ("first hash missing", lambda c: c["proof"].pop(0), bad),
            ("last hash missing", lambda c: c["proof"].pop(), bad),
            ("trailing hash", lambda c: c["proof"].append(c["proof"][0]), bad),
            ("hashes exchanged", lambda c: c["proof"].insert(0, c["proof"].pop(1)), bad),
            ("empty proof", lambda c: c.update(proof=[]), bad),
        ],
    )
    zero = case(0, 7)
    spoiled += cases_of(
        zero,
        [
            ("proof from the empty tree", lambda c: c["proof"].append("00" * 32), bad),
            ("root of the empty tree", lambda c: c.update(old_root="00" * 32), bad),
            ("no growth, other root", lambda c: c.update(new_size=0), bad),
        ],
    )
    same = case(100, 100)
    spoiled += cases_of(
        same,
        [
            ("two roots at one size", lambda c: c.update(new_root=flip(c["new_root"])), bad),
            ("proof for no growth", lambda c: c["proof"].append("00" * 32), bad),
        ],
    )
    return {"valid": [case(*place) for place in places], "spoiled": spoiled}


def _note(size: int, *, witnesses: Sequence[Signer] = ()) -> Note:
    checkpoint = Checkpoint(ORIGIN, size, root(size))
    lines = tuple(cosign(signer, checkpoint, time_s=TIME) for signer in witnesses)
    return sign(checkpoint, [LOG], time_s=TIME).with_signatures(lines)


def _policy() -> Json:
    return {
        "logs": [LOG.verifier.vkey()],
        "witnesses": [signer.verifier.vkey() for signer in WITNESSES],
        "threshold": 2,
    }


def _change(old: str, new: str) -> Callable[[Json], object]:
    def spoil(case: Json) -> None:
        assert old in case["note"], old
        case["note"] = case["note"].replace(old, new, 1)

    return spoil


def _spoil_signature(case: Json, line: int, at: int) -> None:
    lines = case["note"].split("\n")
    head, blob = lines[line].rsplit(" ", 1)
    data = bytearray(base64.b64decode(blob))
    data[at] ^= 1
    lines[line] = f"{head} {base64.b64encode(data).decode()}"
    case["note"] = "\n".join(lines)


def _drop_line(line: int) -> Callable[[Json], object]:
    def spoil(case: Json) -> None:
        lines = case["note"].split("\n")
        del lines[line]
        case["note"] = "\n".join(lines)

    return spoil


def checkpoint() -> Json:
    """Lines of a note: 0 origin, 1 size, 2 root, 3 empty, 4 log, 5 and 6 witnesses."""
    valid = {"note": _note(100, witnesses=WITNESSES[:2]).encode()}
    bad, malformed, none = "BAD_SIGNATURE", "MALFORMED", "NOT_WITNESSED"
    foreign = Signer(ORIGIN, SignatureType.ED25519, b"\x09" * 32)
    foreign_line = cosign(foreign, Checkpoint(ORIGIN, 100, root(100)), time_s=TIME).encode()
    log_line = valid["note"].split("\n")[4]
    spoiled = cases_of(
        valid,
        [
            ("size changed", _change("\n100\n", "\n101\n"), bad),
            ("size with a leading zero", _change("\n100\n", "\n0100\n"), malformed),
            ("size with a sign", _change("\n100\n", "\n+100\n"), malformed),
            ("size empty", _change("\n100\n", "\n\n"), malformed),
            ("size beyond 2^63-1", _change("\n100\n", f"\n{2**63}\n"), malformed),
            ("size zero with another root", _change("\n100\n", "\n0\n"), malformed),
            ("origin changed", _change("vectors\n", "vector\n"), "UNTRUSTED_KEY"),
            ("origin empty", _change(f"{ORIGIN}\n", "\n"), malformed),
            ("root not canonical base64", _loosen_root, malformed),
            ("root short", _shorten_root, malformed),
            ("extension line", _change("=\n\n", "=\nextension\n\n"), malformed),
            (
                "carriage returns",
                lambda c: c.update(note=c["note"].replace("\n", "\r\n")),
                malformed,
            ),
            ("control character", _change("example", "exam\x01ple"), malformed),
            ("no empty line", _change("\n\n", "\n"), malformed),
            ("no last newline", lambda c: c.update(note=c["note"][:-1]), malformed),
            ("trailing empty line", lambda c: c.update(note=c["note"] + "\n"), malformed),
            ("trailing text", lambda c: c.update(note=c["note"] + "x\n"), malformed),
            ("hyphen for dash", _change("\n\n— ", "\n\n- "), malformed),
            ("two spaces", _change("— log", "—  log"), malformed),
            ("signature not base64", _change(log_line[-20:], "*" * 20), malformed),
            ("signature line without a signature", _change(log_line, log_line[:27]), malformed),
            ("log signature changed", lambda c: _spoil_signature(c, 4, 10), bad),
            ("log signature missing", _drop_line(4), bad),
            ("log signature by another key", _change(log_line, foreign_line[:-1]), bad),
            ("witness signature changed", lambda c: _spoil_signature(c, 5, 20), bad),
            ("witness time changed", lambda c: _spoil_signature(c, 5, 11), bad),
            ("witness unknown", lambda c: _spoil_signature(c, 5, 0), none),
            ("witness missing", _drop_line(5), none),
            ("one witness twice", _repeat_witness, none),
            ("empty", lambda c: c.update(note=""), malformed),
        ],
    )
    return {"policy": _policy(), "valid": [valid, _all_witnesses()], "spoiled": spoiled}


def _all_witnesses() -> Json:
    return {"note": _note(7, witnesses=WITNESSES).encode()}


def _loosen_root(case: Json) -> None:
    """Set unused bits of the root's last base64 digit."""
    lines = case["note"].split("\n")
    digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    lines[2] = lines[2][:42] + digits[digits.index(lines[2][42]) + 1] + "="
    case["note"] = "\n".join(lines)


def _shorten_root(case: Json) -> None:
    lines = case["note"].split("\n")
    lines[2] = base64.b64encode(root(100)[:31]).decode()
    case["note"] = "\n".join(lines)


def _repeat_witness(case: Json) -> None:
    lines = case["note"].split("\n")
    lines[6] = lines[5]
    case["note"] = "\n".join(lines)


def tlog_proof() -> Json:
    def case(index: int, size: int, extra: bytes | None = None) -> Json:
        path = tuple(inclusion_proof(index, size, LOOKUP))
        proof = TlogProof(index, path, _note(size, witnesses=WITNESSES[:2]).encode(), extra)
        return {"entry": entry(index).hex(), "note": proof.encode()}

    malformed, bad = "MALFORMED", "BAD_PROOF"
    first = base64.b64encode(inclusion_proof(63, 100, LOOKUP)[0]).decode()
    spoiled = cases_of(
        case(63, 100),
        [
            ("other entry", lambda c: c.update(entry=flip(c["entry"])), bad),
            ("entry short", lambda c: c.update(entry=c["entry"][2:]), malformed),
            ("other version", _change("proof@v1", "proof@v2"), malformed),
            ("index changed", _change("index 63", "index 62"), bad),
            ("index at the size", _change("index 63", "index 100"), bad),
            ("index with a leading zero", _change("index 63", "index 063"), malformed),
            ("index missing", _change("index 63\n", ""), malformed),
            ("hash missing", _change(f"{first}\n", ""), bad),
            ("hash twice", _change(f"{first}\n", f"{first}\n{first}\n"), bad),
            ("hash short", _change(first, base64.b64encode(b"x" * 31).decode()), malformed),
            ("extra not base64", _change("index", "extra ?\nindex"), malformed),
            ("extra twice", _change("index", "extra AAAA\nextra AAAA\nindex"), malformed),
            ("extra after index", _change("index 63", "index 63\nextra AAAA"), malformed),
            ("no empty line", _change("\n\n", "\n"), malformed),
            ("size changed", _change("\n100\n", "\n101\n"), "BAD_SIGNATURE"),
            ("witness missing", _drop_last_line, "NOT_WITNESSED"),
            ("trailing text", lambda c: c.update(note=c["note"] + "x\n"), malformed),
        ],
    )
    return {
        "policy": _policy(),
        "valid": [case(0, 1), case(63, 100), case(299, 300, b"extra data")],
        "spoiled": spoiled,
    }


def _drop_last_line(case: Json) -> None:
    case["note"] = "\n".join(case["note"].split("\n")[:-2]) + "\n"


def cose_receipt() -> Json:
    key = Ed25519PrivateKey.from_private_bytes(sha256(b"cose").digest())
    public = key.public_key().public_bytes_raw()

    def case(index: int, size: int) -> Json:
        path = inclusion_proof(index, size, LOOKUP)
        receipt = issue_receipt(entry(index), index, size, path, root(size), key=key)
        return {"entry": entry(index).hex(), "key": public.hex(), "receipt": receipt.hex()}

    def rebuilt(change: Callable[[list[Any]], object]) -> Callable[[Json], object]:
        def spoil(spoiled: Json) -> None:
            tag = cbor.decode(bytes.fromhex(spoiled["receipt"]))
            assert isinstance(tag, cbor.Tag)
            assert isinstance(tag.value, list)
            change(tag.value)
            spoiled["receipt"] = cbor.encode(cbor.Tag(tag.number, tag.value)).hex()

        return spoil

    def reproved(change: Callable[[list[Any]], object]) -> Callable[[Json], object]:
        def inside(members: list[Any]) -> None:
            proof = cbor.decode(members[1][396][-1][0])
            assert isinstance(proof, list)
            change(proof)
            members[1][396][-1][0] = cbor.encode(proof)

        return rebuilt(inside)

    def protect(header: dict[int, Any]) -> Callable[[list[Any]], object]:
        return lambda members: members.__setitem__(0, cbor.encode(header))

    kid = sha256(public).digest()
    malformed, bad = "MALFORMED", "BAD_SIGNATURE"
    spoiled = cases_of(
        case(63, 100),
        [
            ("other entry", lambda c: c.update(entry=flip(c["entry"])), bad),
            ("other key", lambda c: c.update(key=flip(c["key"])), "UNTRUSTED_KEY"),
            ("signature changed", lambda c: c.update(receipt=flip(c["receipt"], -1)), bad),
            ("trailing byte", lambda c: c.update(receipt=c["receipt"] + "00"), malformed),
            ("cut off", lambda c: c.update(receipt=c["receipt"][:-2]), malformed),
            ("attached payload", rebuilt(lambda m: m.__setitem__(2, root(100))), malformed),
            ("other data structure", rebuilt(protect({1: -8, 4: kid, 395: 2})), malformed),
            ("other algorithm", rebuilt(protect({1: -7, 4: kid, 395: 1})), malformed),
            ("one header member more", rebuilt(protect({1: -8, 3: 0, 4: kid, 395: 1})), malformed),
            ("no proof", rebuilt(lambda m: m.__setitem__(1, {})), malformed),
            ("two proofs", rebuilt(lambda m: m[1][396][-1].append(b"")), malformed),
            ("one unprotected member more", rebuilt(lambda m: m[1].update({4: b""})), malformed),
            ("index changed", reproved(lambda p: p.__setitem__(1, 62)), bad),
            ("index at the size", reproved(lambda p: p.__setitem__(1, 100)), "BAD_PROOF"),
            ("size changed", reproved(lambda p: p.__setitem__(0, 64)), "BAD_PROOF"),
            ("hash changed", reproved(lambda p: p[2].__setitem__(0, b"\x00" * 32)), bad),
            ("hash missing", reproved(lambda p: p[2].pop()), "BAD_PROOF"),
            ("hash short", reproved(lambda p: p[2].__setitem__(0, b"\x00" * 31)), malformed),
            ("size as a boolean", reproved(lambda p: p.__setitem__(0, True)), malformed),
        ],
    )
    return {"valid": [case(0, 1), case(63, 100), case(299, 300)], "spoiled": spoiled}


def witnessed() -> Json:
    """Everything with ML-DSA-44 in it."""
    log = (LOG, Signer(ORIGIN, SignatureType.COSIGNATURE_MLDSA44, sha256(b"log pq").digest()))
    names = ("w0.example", "w1.example")
    witnesses = [
        *WITNESSES[:2],
        *(
            Signer(name, SignatureType.COSIGNATURE_MLDSA44, sha256(name.encode()).digest())
            for name in names
        ),
    ]
    head = Checkpoint(ORIGIN, 300, root(300))
    lines = tuple(cosign(signer, head, time_s=TIME) for signer in witnesses)
    note = sign(head, log, time_s=TIME).with_signatures(lines).encode()
    proof = TlogProof(255, tuple(inclusion_proof(255, 300, LOOKUP)), note)
    return {
        "policy": {
            "logs": [signer.verifier.vkey() for signer in log],
            "witnesses": [signer.verifier.vkey() for signer in witnesses],
            "threshold": 2,
        },
        "valid": [{"entry": entry(255).hex(), "note": proof.encode()}],
    }


def build() -> dict[str, str]:
    """Return the deterministic files: name -> content."""
    made = {
        "tree": tree(),
        "tiles": tiles(),
        "inclusion": inclusion(),
        "consistency": consistency(),
        "checkpoint": checkpoint(),
        "tlog_proof": tlog_proof(),
        "cose_receipt": cose_receipt(),
    }
    return {f"{name}.json": dump(value) for name, value in made.items()}


def dump(value: Json) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False, sort_keys=False) + "\n"


def main(arguments: Sequence[str] = ()) -> None:
    """Write the files; the frozen one only when it is missing or `--freeze` is given."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, content in build().items():
        (FOLDER / name).write_text(content, "utf-8")
    if "--freeze" in arguments or not (FOLDER / FROZEN).exists():
        (FOLDER / FROZEN).write_text(dump(witnessed()), "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
