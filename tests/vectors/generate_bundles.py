"""Write the vectors of what an offline verifier reads: `python -m tests.vectors.generate_bundles`.

Cosignatures, policy files and bundles: valid ones, and for each way of spoiling one a case with the error code that a
verifier must raise. A spoiled bundle is written as one splice of the first valid one (`tests.vectors.files`), with the
number of the step that fails (0: the file is not read). All is a function of fixed seeds and of
`witnessed.frozen.json`, whose ML-DSA-44 signatures are used again.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from hashlib import sha256
from typing import Any

from shared.codec import cbor
from shared.statements.cose import attach, entry_of
from shared.translog.checkpoint import Checkpoint, parse_checkpoint
from shared.translog.cosignature import cosign
from shared.translog.notes import SignatureType, Signer, decode_base64, encode_base64, parse_note
from shared.translog.policy_file import PolicyFile
from shared.translog.tlog_proof import parse_tlog_proof
from shared.verification.bundle import Bundle
from tests.vectors import chained, samples
from tests.vectors.bundle_samples import (
    CANCELLED,
    HEAD,
    IMPOSSIBLE,
    KEY_BUNDLE,
    LATE,
    OF_RECEIPT,
    OF_REFUSAL,
    OF_VERDICT,
    ORDER,
    ORIGIN,
    RECEIPT,
    RECEIPT_VALUE,
    REFUSAL,
    REFUSAL_VALUE,
    UNFOUNDED,
    VERDICT,
    of_claim,
    path_of,
    policy_of,
    policy_text,
    proof_of,
    signed,
    with_cose_receipt,
)
from tests.vectors.files import splice
from tests.vectors.generate_translog import (
    FOLDER,
    FROZEN,
    LOG,
    TIME,
    WITNESSES,
    Json,
    cases_of,
    dump,
)
from tests.vectors.generate_translog import root as tree_root
from tests.vectors.samples import octets, signing_key

STRANGER = Signer("w0.example", SignatureType.COSIGNATURE_ED25519, sha256(b"stranger").digest())
Spoil = Callable[[Json], object]


# -- cosignatures ----------------------------------------------------------------------------------


def cosignature() -> Json:
    """One line by one key over one checkpoint; valid cases say the time in it (0: none)."""
    head = Checkpoint(LOG.verifier.name, 100, tree_root(100))
    valid = [
        {
            "checkpoint": head.body,
            "vkey": signer.verifier.vkey(),
            "line": cosign(signer, head, time_s=TIME).encode()[:-1],
            "time": TIME if signer.verifier.kind.timestamped else 0,
        }
        for signer in (WITNESSES[0], LOG)
    ]
    frozen = json.loads((FOLDER / FROZEN).read_text("utf-8"))
    note = parse_note(parse_tlog_proof(frozen["valid"][0]["note"]).note)
    lines = {line.key_id.hex(): line.encode()[:-1] for line in note.signatures}
    witness_vkey = frozen["policy"]["witnesses"][-1]
    post_quantum = {
        "checkpoint": note.text,
        "vkey": witness_vkey,
        "line": lines[witness_vkey.split("+")[1]],
        "time": TIME,
    }
    bad, none, malformed = "BAD_SIGNATURE", "NOT_WITNESSED", "MALFORMED"
    spoiled = [
        *_of_any_cosignature(valid[0], "Ed25519"),
        *cases_of(
            valid[0],
            [
                ("name changed", _swap("line", "w0.example", "w1.example"), none),
                ("another key of that name", _by_stranger(head), none),
                ("a key id that is not the key's", _edit_vkey(1, "00000000"), malformed),
                ("a name that is not the key id's", _edit_vkey(0, "w1.example"), malformed),
                ("a key of an unknown type", _other_type, "UNSUPPORTED"),
                ("signed as a log signs", _signed_plainly, bad),
                ("line with a newline", lambda c: c.update(line=c["line"] + "\n"), malformed),
                ("line not base64", lambda c: c.update(line=c["line"][:-1] + "*"), malformed),
                ("a hyphen for the dash", _swap("line", "— ", "- "), malformed),
                ("extension line", _swap("checkpoint", "=\n", "=\nextension\n"), malformed),
            ],
        ),
        *_of_any_cosignature(post_quantum, "ML-DSA-44"),
        *cases_of(valid[1], [("the log's line changed", _blob_changed(-1), bad)]),
    ]
    return {"valid": [*valid, post_quantum], "spoiled": spoiled}


def _of_any_cosignature(valid: Json, kind: str) -> list[Json]:
    """Return what spoils a cosignature of either type. Its blob is key id (4), time (8), signature."""
    head = parse_checkpoint(valid["checkpoint"])
    bad, none = "BAD_SIGNATURE", "NOT_WITNESSED"
    root = encode_base64(head.root)
    ways: list[tuple[str, Spoil, str]] = [
        ("origin changed", _swap("checkpoint", head.origin, "log.example/other"), bad),
        ("size changed", _swap("checkpoint", f"\n{head.size}\n", f"\n{head.size + 1}\n"), bad),
        ("root changed", _swap("checkpoint", root, encode_base64(bytes(32))), bad),
        ("key id changed", _blob_changed(0), none),
        ("time changed", _blob_changed(11), bad),
        ("time zero", _blob(lambda b: b[:4] + bytes(8) + b[12:]), bad),
        ("time beyond 2^63-1", _blob(lambda b: b[:4] + b"\xff" * 8 + b[12:]), bad),
        ("signature changed", _blob_changed(-1), bad),
        ("signature short", _blob(lambda b: b[:-1]), bad),
        ("signature long", _blob(lambda b: b + b"\x00"), bad),
        ("time alone", _blob(lambda b: b[:12]), bad),
        ("half a time", _blob(lambda b: b[:8]), bad),
    ]
    return cases_of(valid, [(f"{kind}: {name}", spoil, code) for name, spoil, code in ways])


def _swap(member: str, old: str, new: str) -> Spoil:
    def spoil(case: Json) -> None:
        assert old in case[member], old
        case[member] = case[member].replace(old, new, 1)

    return spoil


def _blob(change: Callable[[bytes], bytes]) -> Spoil:
    def spoil(case: Json) -> None:
        head, _, blob = case["line"].rpartition(" ")
        case["line"] = f"{head} {encode_base64(change(decode_base64(blob)))}"

    return spoil


def _blob_changed(at: int) -> Spoil:
    return _blob(lambda blob: _changed(blob, at))


def _changed(data: bytes, at: int = 0) -> bytes:
    copy = bytearray(data)
    copy[at] ^= 1
    return bytes(copy)


def _by_stranger(head: Checkpoint) -> Spoil:
    return lambda case: case.update(line=cosign(STRANGER, head, time_s=TIME).encode()[:-1])


def _edit_vkey(place: int, value: str) -> Spoil:
    def spoil(case: Json) -> None:
        parts = case["vkey"].split("+", 2)
        parts[place] = value
        case["vkey"] = "+".join(parts)

    return spoil


def _other_type(case: Json) -> None:
    _edit_vkey(2, encode_base64(b"\x02" + bytes(32)))(case)


def _signed_plainly(case: Json) -> None:
    raw = WITNESSES[0].sign_raw(case["checkpoint"].encode())
    _blob(lambda blob: blob[:12] + raw)(case)


# -- policy files ----------------------------------------------------------------------------------


def policy_file() -> Json:
    """Valid files with sets of witnesses (by line name) that meet the quorum, and sets that do not."""
    log = f"log {LOG.verifier.vkey()}\n"
    w0, w1, w2 = (
        f"witness {name} {signer.verifier.vkey()}\n"
        for name, signer in zip("XYZ", WITNESSES, strict=True)
    )
    base = log + w0 + w1 + w2
    nested = base + "group XY any X Y\ngroup both all XY Z\nquorum both\n"
    spaced = (
        f"# ours\n\n \tlog\t{LOG.verifier.vkey()}  https://log.example/ \n"
        f"  # \u00e4ndern\n{w0[:-1]} https://w0.example/\nquorum \t X\n{w1}"
    )
    valid = [
        {"text": nested, "met": ["XZ", "YZ", "XYZ"], "not_met": ["", "X", "XY", "Z"]},
        {
            "text": base + "group g 2 X Y Z\nquorum g\n",
            "met": ["XY", "YZ", "XYZ"],
            "not_met": ["", "X", "Z"],
        },
        {"text": spaced, "met": ["X"], "not_met": ["", "Y"]},
        {
            "text": base + "group g all X Y\ngroup unused all Z\nquorum g\n",
            "met": ["XY"],
            "not_met": ["X", "XZ"],
        },
    ]
    malformed, unusable = "MALFORMED", "CONFIGURATION"
    log_vkey, w0_vkey = LOG.verifier.vkey(), WITNESSES[0].verifier.vkey()
    other = Signer("other.example", SignatureType.COSIGNATURE_ED25519, sha256(b"o").digest())
    copy = f"copy.example+{_key_id('copy.example', WITNESSES[0])}+{w0_vkey.split('+', 2)[2]}"
    as_log = Signer("w.example", SignatureType.COSIGNATURE_ED25519, sha256(b"log").digest())
    many = "".join(f"group n{n} any {'X' if n == 0 else f'n{n - 1}'}\n" for n in range(65))

    def text(old: str, new: str) -> Spoil:
        return _swap("text", old, new)

    ways: list[tuple[str, Spoil, str]] = [
        ("empty", lambda c: c.update(text=""), malformed),
        ("no newline at the end", lambda c: c.update(text=c["text"][:-1]), malformed),
        ("carriage return", text("quorum both\n", "quorum both\r\n"), malformed),
        ("form feed", text("group both", "group\fboth"), malformed),
        ("delete character", text("group XY", "group \x7fXY"), malformed),
        ("no-break space for a blank", text("quorum both", "quorum\u00a0both"), malformed),
        ("unknown keyword", text("quorum", "threshold"), malformed),
        ("keyword in capitals", text("quorum", "QUORUM"), malformed),
        ("no quorum", text("quorum both\n", ""), malformed),
        ("two quorums", text("quorum both\n", "quorum both\nquorum both\n"), malformed),
        ("quorum of two names", text("quorum both", "quorum XY Z"), malformed),
        ("quorum of nothing", text("quorum both", "quorum"), malformed),
        ("quorum not defined", text("quorum both", "quorum either"), malformed),
        ("quorum in other letters", text("quorum both", "quorum Both"), malformed),
        ("quorum defined afterwards", lambda c: c.update(text="quorum X\n" + base), malformed),
        ("quorum none", text("quorum both", "quorum none"), unusable),
        ("no log", text(log, ""), unusable),
        ("log without a key", text(log, "log\n"), malformed),
        ("log with two URLs", text(log, f"log {log_vkey} u u\n"), malformed),
        ("log twice", text(log, log + log), malformed),
        ("log with a witness's type", text(log, f"log {other.verifier.vkey()}\n"), malformed),
        ("vkey cut off", text(log_vkey, log_vkey[:-1]), malformed),
        ("vkey of another key id", text("+", "+0"), malformed),
        ("vkey of an unknown type", text(log_vkey, _unknown_type()), "UNSUPPORTED"),
        ("witness without a key", text(w0, "witness X\n"), malformed),
        ("witness with two URLs", text(w0, w0[:-1] + " u u\n"), malformed),
        ("witness with a log's type", text(w0_vkey, _as_log(other)), malformed),
        ("witness named none", text(w0, f"witness none {w0_vkey}\n"), malformed),
        ("two witnesses of one name", text("witness Y", "witness X"), malformed),
        ("one key under two names", text(w1, f"witness Y {copy}\n"), malformed),
        ("the log's key as a witness", text(w1, f"witness Y {as_log.verifier.vkey()}\n"), unusable),
        ("group without members", text("group XY any X Y", "group XY any"), malformed),
        ("group without a threshold", text("group XY any X Y", "group XY X Y"), malformed),
        ("group with threshold zero", text("any X Y", "0 X Y"), malformed),
        ("group with threshold beyond its members", text("any X Y", "3 X Y"), malformed),
        ("group with a signed threshold", text("any X Y", "+1 X Y"), malformed),
        ("group with a leading zero", text("any X Y", "01 X Y"), malformed),
        ("group with threshold ALL", text("any X Y", "ALL X Y"), malformed),
        ("group named none", text("group both", "group none"), malformed),
        ("group named as a witness", text("group XY any X Y", "group Z any X Y"), malformed),
        ("member not defined", text("all XY Z", "all XY W"), malformed),
        ("member none", text("all XY Z", "all XY none"), malformed),
        ("member defined afterwards", text("all XY Z\n", "all XY A\ngroup A all Z\n"), malformed),
        ("group that is its own member", text("all XY Z", "all both Z"), malformed),
        ("member twice in a group", text("all XY Z", "all XY Z Z"), malformed),
        ("member of two groups", text("all XY Z", "all XY X"), malformed),
        ("65 groups", lambda c: c.update(text=base + many + "quorum n64\n"), malformed),
    ]
    return {"valid": valid, "spoiled": cases_of({"text": nested}, ways)}


def _key_id(name: str, signer: Signer) -> str:
    return replace(signer.verifier, name=name).key_id.hex()


def _unknown_type() -> str:
    material = b"\x02" + bytes(32)
    key_id = sha256(b"l.example\n" + material).digest()[:4]
    return f"l.example+{key_id.hex()}+{encode_base64(material)}"


def _as_log(signer: Signer) -> str:
    return replace(signer.verifier, kind=SignatureType.ED25519).vkey()


# -- bundles ---------------------------------------------------------------------------------------


def bundle() -> Json:
    """Bundles as text, what is verified of each, and splices that spoil the first."""
    good = OF_RECEIPT.encode().encode()
    spoiled = [
        {"name": name, "code": code, "step": step, **splice(good, bad)}
        for name, bad, code, step in _spoiled_bundles(good)
    ]
    return {
        "valid": [
            {"bundle": made.encode(), "facts": _facts(raw), "steps": steps}
            for made, raw, steps in (
                (OF_RECEIPT, RECEIPT, 9),
                (OF_VERDICT, VERDICT, 3),
                (of_claim(CANCELLED), CANCELLED, 9),
                (of_claim(LATE), LATE, 9),
                (OF_REFUSAL, REFUSAL, 7),
            )
        ],
        "spoiled": spoiled,
        "own_policies": [
            {"name": "the same quorum", "policy": policy_text(2), "code": None},
            {"name": "one witness is enough", "policy": policy_text(1), "code": None},
            {"name": "all witnesses", "policy": policy_text(3), "code": "NOT_WITNESSED"},
            {"name": "another log", "policy": _policy_of_another_log(), "code": "UNTRUSTED_KEY"},
        ],
    }


def _facts(raw: bytes) -> Json:
    return {
        "entry": entry_of(raw).hex(),
        "index": path_of(raw)[0],
        "size": HEAD.size,
        "root": HEAD.root.hex(),
        "origin": ORIGIN,
        "witnesses": {signer.verifier.name: TIME for signer in WITNESSES[:2]},
    }


def _policy_of_another_log() -> str:
    policy = policy_of(2)
    return PolicyFile.of(replace(policy, logs=(LOG.verifier,))).encode()


def _spoiled_bundles(good: bytes) -> Iterator[tuple[str, bytes, str, int]]:
    for name, bad in _spoiled_files(good):
        yield name, bad, "MALFORMED", 0
    for name, made, code, step in (*_spoiled_parts(), *_spoiled_refusals()):
        yield name, made.encode().encode(), code, step


def _spoiled_files(good: bytes) -> Iterator[tuple[str, bytes]]:
    values = json.loads(good)

    def without(name: str) -> bytes:
        return _json({key: value for key, value in values.items() if key != name})

    def with_(**members: Any) -> bytes:
        return _json({**values, **members})

    yield "empty", b""
    yield "cut off", good[:-3]
    yield "an array", b"[" + good + b"]"
    yield "byte order mark", b"\xef\xbb\xbf" + good
    yield "not UTF-8", good.replace(b"counterfoil", b"counterf\xffil", 1)
    yield "trailing text", good + b"x"
    yield "member twice", good.replace(b"{\n", b'{\n  "keys": [],\n', 1)
    yield "other format", with_(format="counterfoil-bundle/v2")
    yield "unknown member", with_(comment="x")
    for name in values:
        if name != "timestamps":
            yield f"no {name}", without(name)
    yield "statement null", with_(statement=None)
    yield "statement in base64url", with_(statement=values["statement"][:-4] + "-_==")
    yield "statement with a blank", with_(statement=" " + values["statement"])
    yield "proof not text", with_(tlog_proof=1)
    yield "keys not a list", with_(keys="")
    yield "17 keys", with_(keys=[encode_base64(octets(str(n))) for n in range(17)])
    yield "key of 31 bytes", with_(keys=[encode_base64(bytes(31))])
    yield "timestamp not text", with_(timestamps=[None])


def _json(values: Json) -> bytes:
    return (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode()


def _spoiled_parts() -> Iterator[tuple[str, Bundle, str, int]]:
    """Steps: 1 policy, 2 and 3 key bundle, 4 receipt, 5 order, 6 proof, 7 end, 8 claims, 9 COSE Receipts."""
    good, context = OF_RECEIPT, OF_RECEIPT.context
    assert context is not None
    bad, none, malformed = "BAD_SIGNATURE", "NOT_WITNESSED", "MALFORMED"
    mismatch, unknown = "COMMITMENT_MISMATCH", "UNTRUSTED_KEY"

    def of(**parts: Any) -> Bundle:
        return replace(good, context=replace(context, **parts))

    def receipt(**fields: Any) -> Bundle:
        return replace(good, statement=signed("receipt", replace(RECEIPT_VALUE, **fields)))

    yield "policy not one", replace(good, policy="quorum"), malformed, 1
    yield "policy with quorum none", replace(good, policy=_quorum_none()), "CONFIGURATION", 1
    yield "receipt without order and key bundle", replace(good, context=None), malformed, 2
    yield "key bundle changed", of(key_bundle=_changed(KEY_BUNDLE, -1)), bad, 2
    yield "key bundle is the order", of(key_bundle=ORDER), malformed, 2
    yield "operator's key missing", replace(good, keys=good.keys[1:]), unknown, 2
    yield (
        "key bundle's proof is the receipt's",
        of(key_bundle_proof=good.tlog_proof),
        "BAD_PROOF",
        3,
    )
    yield "key bundle not witnessed", of(key_bundle_proof=proof_of(KEY_BUNDLE, 1)), none, 3
    yield "receipt changed", replace(good, statement=_changed(RECEIPT, -1)), bad, 4
    yield "receipt is a verdict", replace(good, statement=VERDICT), malformed, 4
    yield "receipt of another key bundle", receipt(bundle=octets("bundle")), mismatch, 4
    yield "receipt of another model", receipt(model_root=octets("other")), mismatch, 4
    yield "receipt of another profile", receipt(numeric_profile=octets("other")), mismatch, 4
    early = RECEIPT_VALUE.started - 1
    yield "receipt before its key bundle", receipt(started=early), "STALE_KEY", 4
    yield "order changed", of(order=_changed(ORDER, -1)), mismatch, 5
    yield "another order", of(order=signed("order", samples.ORDER)), mismatch, 5
    yield "order that disagrees with the receipt", receipt(number=42), mismatch, 5
    yield "tenant's key missing", replace(good, keys=(good.keys[0], good.keys[2])), unknown, 5
    yield "receipt that is not in the log", receipt(ended=RECEIPT_VALUE.ended + 1), "BAD_PROOF", 6
    yield "proof of another entry", replace(good, tlog_proof=proof_of(KEY_BUNDLE)), "BAD_PROOF", 6
    yield "proof without the log's signature", replace(good, tlog_proof=_unsigned()), bad, 6
    yield "proof not witnessed", replace(good, tlog_proof=proof_of(RECEIPT, 1)), none, 6
    yield "proof not one", replace(good, tlog_proof="x"), malformed, 6
    for name, raw, code in UNFOUNDED:
        yield name, of_claim(raw), code, 7
    for name, raw in IMPOSSIBLE:
        yield name, of_claim(raw), mismatch, 8
    yield "COSE key missing", replace(good, keys=good.keys[:2]), unknown, 9
    stranger = with_cose_receipt(RECEIPT, signing_key("stranger"))
    yield "COSE Receipt by a stranger", replace(good, statement=stranger), unknown, 9
    for name, statement, code in _spoiled_cose_receipts():
        yield name, replace(good, statement=statement), code, 9


def _spoiled_refusals() -> Iterator[tuple[str, Bundle, str, int]]:
    """Steps: 1 policy, 2 and 3 key bundle, 4 refusal, 5 order, 6 proof, 7 COSE Receipts."""
    good, context = OF_REFUSAL, OF_REFUSAL.context
    assert context is not None
    mismatch = "COMMITMENT_MISMATCH"

    def refusal(**fields: Any) -> Bundle:
        return replace(good, statement=signed("refusal", replace(REFUSAL_VALUE, **fields)))

    yield "refusal without order and key bundle", replace(good, context=None), "MALFORMED", 2
    yield "refusal changed", replace(good, statement=_changed(REFUSAL, -1)), "BAD_SIGNATURE", 4
    yield "refusal of another key bundle", refusal(bundle=octets("bundle")), mismatch, 4
    early = samples.BUNDLE.not_before - 1
    yield "refusal before its key bundle", refusal(at=early), "STALE_KEY", 4
    other = replace(context, order=signed("order", samples.ORDER))
    yield "refusal with another order", replace(good, context=other), mismatch, 5
    changed = replace(context, order=_changed(ORDER, -1))
    yield "refusal with the order changed", replace(good, context=changed), mismatch, 5
    yield "refusal of another number", refusal(number=42), mismatch, 5
    missing = (good.keys[0], good.keys[2])
    yield "refusal, tenant's key missing", replace(good, keys=missing), "UNTRUSTED_KEY", 5
    later = refusal(at=REFUSAL_VALUE.at + 1)
    yield "refusal that is not in the log", later, "BAD_PROOF", 6
    receipts = replace(good, tlog_proof=OF_RECEIPT.tlog_proof)
    yield "refusal with the receipt's proof", receipts, "BAD_PROOF", 6
    stranger = with_cose_receipt(REFUSAL, signing_key("stranger"))
    yield (
        "refusal, COSE Receipt by a stranger",
        replace(good, statement=stranger),
        "UNTRUSTED_KEY",
        7,
    )


def _spoiled_cose_receipts() -> Iterator[tuple[str, bytes, str]]:
    tag = cbor.decode(with_cose_receipt(KEY_BUNDLE))
    assert isinstance(tag, cbor.Tag)
    of_bundle: Any = tag.value
    yield (
        "COSE Receipt of another entry",
        attach(RECEIPT, of_bundle[1][394]),
        "BAD_SIGNATURE",
    )
    yield "COSE Receipt not one", attach(RECEIPT, [b"\xd2\x80"]), "MALFORMED"


def _quorum_none() -> str:
    lines = OF_RECEIPT.policy.splitlines(keepends=True)
    return "".join([*lines[:-1], "quorum none\n"])


def _unsigned() -> str:
    lines = OF_RECEIPT.tlog_proof.splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith(f"— {ORIGIN} "))


def build() -> dict[str, str]:
    """Return the files: name -> content."""
    made = {
        "cosignature": cosignature(),
        "policy_file": policy_file(),
        "bundle": bundle(),
        "bundle_identities": chained.vectors(),
    }
    return {f"{name}.json": dump(value) for name, value in made.items()}


def main() -> None:
    """Write the files."""
    for name, content in build().items():
        (FOLDER / name).write_text(content, "utf-8")


if __name__ == "__main__":
    main()
