"""Notes, keys, checkpoints and policies: known answers of other implementations, and hostile input."""

import struct
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.runtime.errors import Code, CounterfoilError
from shared.translog.checkpoint import Checkpoint, parse_checkpoint
from shared.translog.cosignature import cosign, ed25519_message, mldsa44_message
from shared.translog.notes import (
    MAX_NOTE_BYTES,
    Note,
    SignatureLine,
    SignatureType,
    Signer,
    Verifier,
    encode_base64,
    parse_note,
    parse_secret,
    parse_vkey,
)
from shared.translog.policy import LogPolicy, verify_witnessed
from shared.translog.signed_checkpoint import parse_and_verify, sign
from shared.translog.tree import EMPTY_ROOT
from shared.translog.witness_protocol import (
    AddCheckpoint,
    parse_add_checkpoint,
    parse_cosignatures,
    parse_size,
)

ORIGIN = "log.example/notes"
HEAD = Checkpoint(ORIGIN, 20852163, b"\x11" * 32)
ED = Signer(ORIGIN, SignatureType.ED25519, b"\x01" * 32)
PQ = Signer(ORIGIN, SignatureType.COSIGNATURE_MLDSA44, b"\x02" * 32)


def witness(name: str, kind: SignatureType = SignatureType.COSIGNATURE_ED25519) -> Signer:
    return Signer(name, kind, name.encode().ljust(32, b"-")[:31] + bytes([kind]))


W1, W2 = witness("w1.example"), witness("w2.example")
W1_PQ = witness("w1.example", SignatureType.COSIGNATURE_MLDSA44)


def code_of(call: Callable[..., object], *arguments: object) -> Code:
    with pytest.raises(CounterfoilError) as caught:
        call(*arguments)
    return caught.value.code


def test_keys_and_notes_of_gos_note_package_are_understood():
    # From the documentation of golang.org/x/mod/sumdb/note.
    signer = parse_secret(
        "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
    )
    vkey = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
    assert signer.verifier.vkey() == vkey
    assert parse_vkey(vkey) == signer.verifier
    assert parse_secret(signer.secret_text()).verifier == signer.verifier
    text = (
        "If you think cryptography is the answer to your problem,\n"
        "then you don't know what your problem is.\n"
    )
    note = parse_note(
        text + "\n— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXg"
        "KvqfqdngotpRZb6KE6RyyBwJnAM=\n"
    )
    assert note.text == text
    assert signer.verifier.verify_raw(note.signatures[0].signature, text.encode())
    assert signer.sign_raw(text.encode()) == note.signatures[0].signature


def test_the_messages_that_cosignatures_cover_are_those_of_c2sp():
    # The example of C2SP tlog-cosignature.
    head = parse_checkpoint(
        "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
    )
    assert ed25519_message(head, 1679315147).decode() == (
        "cosignature/v1\ntime 1679315147\nexample.com/behind-the-sofa\n20852163\n"
        "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
    )
    assert mldsa44_message("witness.example.com/w1", head, 1679315147) == (
        b"subtree/v1\n\x00"
        b"\x16witness.example.com/w1"
        + struct.pack(">Q", 1679315147)
        + b"\x1bexample.com/behind-the-sofa"
        + struct.pack(">QQ", 0, 20852163)
        + head.root
    )


@pytest.mark.parametrize("kind", list(SignatureType))
def test_a_signature_covers_origin_size_root_time_and_key(kind: SignatureType):
    signer = Signer(ORIGIN, kind, b"\x05" * 32)
    note = sign(HEAD, [signer], time_s=7)
    assert parse_and_verify(note.encode(), [signer.verifier])[0] == HEAD
    line = note.signatures[0]
    expected = (8 if kind.timestamped else 0) + kind.signature_bytes
    assert len(line.signature) == expected
    spoiled = [bytes(line.signature[:at] + b"?" + line.signature[at + 1 :]) for at in (0, 7, 20)]
    spoiled += [line.signature[:-1], line.signature + b"\x00", b"\x00", b"\x00" * expected]
    for blob in spoiled:
        if blob == line.signature:
            continue
        bad = Note(note.text, (SignatureLine(line.name, line.key_id, blob),)).encode()
        assert code_of(parse_and_verify, bad, [signer.verifier]) is Code.BAD_SIGNATURE
    for text in (
        Checkpoint(ORIGIN, HEAD.size + 1, HEAD.root).body,
        Checkpoint(ORIGIN, HEAD.size, b"\x12" * 32).body,
    ):
        moved = Note(text, note.signatures).encode()
        assert code_of(parse_and_verify, moved, [signer.verifier]) is Code.BAD_SIGNATURE
    stranger = Signer(ORIGIN, kind, b"\x06" * 32).verifier
    assert code_of(parse_and_verify, note.encode(), [stranger]) is Code.BAD_SIGNATURE


def test_a_note_needs_the_signature_of_every_key_that_the_verifier_holds():
    both = [ED.verifier, PQ.verifier]
    parse_and_verify(sign(HEAD, [ED, PQ], time_s=1).encode(), both)
    for only in (ED, PQ):
        note = sign(HEAD, [only], time_s=1).encode()
        parse_and_verify(note, [only.verifier])
        assert code_of(parse_and_verify, note, both) is Code.BAD_SIGNATURE


def test_a_cosignature_without_a_time_is_neither_made_nor_believed():
    with pytest.raises(CounterfoilError):
        cosign(W1, HEAD, time_s=0)
    raw = W1.sign_raw(ed25519_message(HEAD, 0))
    line = SignatureLine(W1.verifier.name, W1.verifier.key_id, b"\x00" * 8 + raw)
    note = sign(HEAD, [ED], time_s=1).with_signatures((line,)).encode()
    policy = LogPolicy((ED.verifier,), (W1.verifier,), 1)
    assert code_of(verify_witnessed, note, policy) is Code.BAD_SIGNATURE


def cosigned(*witnesses: Signer) -> str:
    lines = tuple(cosign(signer, HEAD, time_s=100 + n) for n, signer in enumerate(witnesses))
    return sign(HEAD, [ED], time_s=1).with_signatures(lines).encode()


def test_witnessed_means_the_quorum_has_signed():
    policy = LogPolicy((ED.verifier,), (W1.verifier, W2.verifier), 2)
    assert verify_witnessed(cosigned(W1, W2), policy).times == {
        "w1.example": 100,
        "w2.example": 101,
    }
    for note in (cosigned(), cosigned(W1), cosigned(W1, W1), cosigned(W1, witness("w3.example"))):
        assert code_of(verify_witnessed, note, policy) is Code.NOT_WITNESSED
    assert verify_witnessed(cosigned(W2), LogPolicy(policy.logs, policy.witnesses, 1)).times


def test_a_witness_with_two_keys_counts_once_and_only_with_both():
    policy = LogPolicy((ED.verifier,), (W1.verifier, W1_PQ.verifier, W2.verifier), 2)
    assert policy.witness_names == ("w1.example", "w2.example")
    for note in (cosigned(W1, W1_PQ), cosigned(W1, W2), cosigned(W1_PQ, W2)):
        assert code_of(verify_witnessed, note, policy) is Code.NOT_WITNESSED
    assert verify_witnessed(cosigned(W1, W1_PQ, W2), policy).times["w1.example"] == 100


def test_policies_that_could_not_fail_closed_are_refused():
    one, two = (W1.verifier,), (W1.verifier, W2.verifier)
    copy = Verifier("w9.example", W1.verifier.kind, W1.verifier.public_key)
    wrong = Verifier("w9.example", SignatureType.ED25519, W2.verifier.public_key)
    log = (ED.verifier,)
    for logs, witnesses, threshold in (
        ((), one, 1),
        (log, (), 0),
        (log, one, 0),
        (log, one, 2),
        (log, (*two, copy), 2),
        (log, (*one, wrong), 1),
        (log, (W1.verifier, W1_PQ.verifier), 2),
        (log, one, -1),
    ):
        assert code_of(LogPolicy, logs, witnesses, threshold) is Code.CONFIGURATION
    vkeys = LogPolicy.from_vkeys(
        logs=[ED.verifier.vkey()], witnesses=[W1.verifier.vkey()], threshold=1
    )
    assert vkeys == LogPolicy(log, one, 1)


VKEY = ED.verifier.vkey()


@pytest.mark.parametrize(
    "vkey",
    [
        "",
        "a",
        "a+b",
        "a+b+",
        VKEY[:-1],
        VKEY + "=",
        VKEY.replace("log", "lag"),
        "+" + VKEY,
        f"log.example/notes+00000000+{encode_base64(bytes([2]) * 33)}",
        " " + VKEY,
        VKEY.replace(".", " "),
        "x+00000000+/w==",
    ],
)
def test_malformed_vkeys_are_refused(vkey: str):
    assert code_of(parse_vkey, vkey) in {Code.MALFORMED, Code.UNSUPPORTED}


def test_a_refused_secret_key_does_not_appear_in_the_error():
    secret = ED.secret_text()
    for wrong in (secret.replace("log", "lag"), secret[:-4], secret[8:]):
        with pytest.raises(CounterfoilError) as caught:
            parse_secret(wrong)
        assert secret[-20:-4] not in str(caught.value)
    assert secret[-20:] not in repr(ED)


GOOD = sign(HEAD, [ED], time_s=1).encode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"\n\n",
        GOOD.encode() + b"\n",
        GOOD.encode()[:-1],
        b"\xff" + GOOD.encode(),
        GOOD.replace("\n", "\r\n").encode(),
        GOOD.replace("\n\n", "\n").encode(),
        GOOD.split("\n\n")[0].encode() + b"\n\n",
        b"x" * (MAX_NOTE_BYTES + 1),
        (GOOD + GOOD.split("\n\n")[1] * 64).encode(),
        GOOD.replace("— ", "—").encode(),
        GOOD.replace("— log.example/notes ", "— log.example/notes  ").encode(),
        GOOD.encode() + "— name+plus AAAAAAAA\n".encode(),
        GOOD.encode() + "— name AAAA\n".encode(),
        GOOD.encode() + "— na\u00a0me AAAAAAAA\n".encode(),
        GOOD.encode() + b"\x00",
    ],
)
def test_malformed_notes_are_refused(data: bytes):
    assert code_of(parse_note, data) is Code.MALFORMED


@settings(max_examples=200, deadline=None)
@given(
    data=st.one_of(
        st.binary(max_size=200), st.text(max_size=200).map(lambda s: s.encode("utf-8", "replace"))
    )
)
def test_parsers_answer_any_input_with_a_value_or_malformed(data: bytes):
    for parse in (parse_note, parse_add_checkpoint, parse_cosignatures, parse_size):
        try:
            parse(data)
        except CounterfoilError as e:
            if e.code is not Code.MALFORMED:
                raise


@settings(max_examples=100, deadline=None)
@given(at=st.integers(0, len(GOOD) - 1), to=st.characters(codec="utf-8"))
def test_no_changed_character_of_a_checkpoint_note_verifies(at: int, to: str):
    changed = GOOD[:at] + to + GOOD[at + 1 :]
    if changed == GOOD:
        return
    with pytest.raises(CounterfoilError):
        parse_and_verify(changed, [ED.verifier])


@pytest.mark.parametrize(
    ("origin", "size", "root"),
    [
        ("", 1, b"x" * 32),
        ("a b", 1, b"x" * 32),
        ("a+b", 1, b"x" * 32),
        ("a\nb", 1, b"x" * 32),
        ("o" * 256, 1, b"x" * 32),
        ("o", -1, b"x" * 32),
        ("o", 2**63, b"x" * 32),
        ("o", 1, b"x" * 31),
        ("o", 0, b"x" * 32),
        ("\ud800", 1, b"x" * 32),
    ],
)
def test_checkpoints_that_cannot_be_are_refused(origin: str, size: int, root: bytes):
    assert code_of(Checkpoint, origin, size, root) is Code.MALFORMED


def test_the_empty_trees_checkpoint_has_its_one_root():
    assert parse_checkpoint(Checkpoint("o", 0, EMPTY_ROOT).body).size == 0


@settings(max_examples=50, deadline=None)
@given(
    old=st.integers(0, 2**63 - 1), proof=st.lists(st.binary(min_size=32, max_size=32), max_size=63)
)
def test_add_checkpoint_requests_are_parsed_as_they_are_written(old: int, proof: list[bytes]):
    request = AddCheckpoint(old, tuple(proof), GOOD)
    assert parse_add_checkpoint(request.encode()) == request
