"""What a witness promises: it cosigns one history per log, persists first, and answers as C2SP says."""

import itertools
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit_layer.witness.core import Answer, Witness
from audit_layer.witness.store import WitnessStore
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.faults import VARIABLE, InjectedFault
from shared.translog.checkpoint import Checkpoint
from shared.translog.notes import SignatureType, Signer
from shared.translog.proofs import consistency_proof, lookup_in, root_at
from shared.translog.signed_checkpoint import sign, signature_time
from shared.translog.tree import leaf_hash
from shared.translog.witness_protocol import AddCheckpoint, parse_cosignatures, parse_size

ORIGIN = "log.example/test"
NAME = "witness.example"
LOG = (
    Signer(ORIGIN, SignatureType.ED25519, b"\x01" * 32),
    Signer(ORIGIN, SignatureType.COSIGNATURE_MLDSA44, b"\x02" * 32),
)
COSIGNERS = (
    Signer(NAME, SignatureType.COSIGNATURE_ED25519, b"\x03" * 32),
    Signer(NAME, SignatureType.COSIGNATURE_MLDSA44, b"\x04" * 32),
)
KNOWN = {ORIGIN: tuple(signer.verifier for signer in LOG)}
LEAVES = [leaf_hash(sha256(bytes([n])).digest()) for n in range(64)]
OTHER = [leaf_hash(sha256(bytes([n, 1])).digest()) for n in range(64)]


class Tree:
    """A log's tree, all of it in memory."""

    def __init__(self, leaves: Sequence[bytes] = LEAVES) -> None:
        self.lookup = lookup_in(leaves)

    def checkpoint(self, size: int) -> Checkpoint:
        return Checkpoint(ORIGIN, size, root_at(size, self.lookup))

    def note(self, size: int, signers: Sequence[Signer] = LOG) -> str:
        return sign(self.checkpoint(size), signers, time_s=1).encode()

    def request(self, old: int, size: int) -> bytes:
        proof = consistency_proof(old, size, self.lookup)
        return AddCheckpoint(old, tuple(proof), self.note(size)).encode()


HONEST, FORKED = Tree(), Tree([*LEAVES[:3], *OTHER[3:]])


@pytest.fixture
def store(tmp_path: Path) -> Iterator[WitnessStore]:
    with WitnessStore(tmp_path / "witness.db") as store:
        yield store


def make(store: WitnessStore) -> Witness:
    return Witness(store, COSIGNERS, KNOWN, clock=lambda: 1_700_000_000.0)


def assert_cosigned(answer: Answer, size: int, tree: Tree = HONEST) -> None:
    assert answer.status == 200, answer.body
    lines = parse_cosignatures(answer.body)
    for signer in COSIGNERS:
        assert signature_time(tree.checkpoint(size), lines, signer.verifier) == 1_700_000_000


def test_it_cosigns_growth_step_by_step_and_the_same_size_again(store: WitnessStore):
    witness = make(store)
    for old, size in ((0, 1), (1, 1), (1, 8), (8, 33), (33, 33), (33, 64)):
        assert_cosigned(witness.add_checkpoint(HONEST.request(old, size)), size)
    held = witness.latest(ORIGIN)
    assert held is not None
    assert held.checkpoint == HONEST.checkpoint(64)


def test_it_accepts_the_empty_tree_and_what_follows_it(store: WitnessStore):
    witness = make(store)
    assert_cosigned(witness.add_checkpoint(HONEST.request(0, 0)), 0)
    assert_cosigned(witness.add_checkpoint(HONEST.request(0, 5)), 5)


def test_an_old_size_other_than_the_one_it_holds_is_answered_with_that_size(store: WitnessStore):
    witness = make(store)
    witness.add_checkpoint(HONEST.request(0, 8))
    for old, size in ((0, 20), (4, 20), (9, 20), (0, 8), (0, 3)):
        answer = witness.add_checkpoint(HONEST.request(old, size))
        assert (answer.status, answer.content_type) == (409, "text/x.tlog.size")
        assert parse_size(answer.body) == 8


def test_a_fork_is_refused_and_kept_as_evidence(store: WitnessStore):
    witness = make(store)
    witness.add_checkpoint(HONEST.request(0, 8))
    assert witness.add_checkpoint(FORKED.request(8, 20)).status == 422
    fork = AddCheckpoint(8, (), FORKED.note(8))
    answer = witness.add_checkpoint(fork.encode())
    assert (answer.status, parse_size(answer.body)) == (409, 8)
    assert store.forks(ORIGIN) == [fork.note]
    assert_cosigned(witness.add_checkpoint(HONEST.request(8, 20)), 20)


def test_a_forged_short_or_long_proof_is_refused(store: WitnessStore):
    witness = make(store)
    witness.add_checkpoint(HONEST.request(0, 6))
    proof = consistency_proof(6, 23, HONEST.lookup)
    forged = [proof[:-1], [*proof, proof[0]], [proof[1], proof[0], *proof[2:]], []]
    for bad in forged:
        request = AddCheckpoint(6, tuple(bad), HONEST.note(23))
        assert witness.add_checkpoint(request.encode()).status == 422
    assert_cosigned(witness.add_checkpoint(HONEST.request(6, 23)), 23)


def test_an_old_size_above_the_checkpoint_is_a_bad_request(store: WitnessStore):
    request = AddCheckpoint(9, (), HONEST.note(8))
    assert make(store).add_checkpoint(request.encode()).status == 400


def test_an_unknown_log_is_not_found(store: WitnessStore):
    signer = Signer("other.example", SignatureType.ED25519, b"\x01" * 32)
    checkpoint = Checkpoint("other.example", 1, LEAVES[0])
    request = AddCheckpoint(0, (), sign(checkpoint, [signer], time_s=1).encode())
    assert make(store).add_checkpoint(request.encode()).status == 404


def test_an_unknown_log_is_not_found_whatever_its_checkpoints_look_like(store: WitnessStore):
    signed = "\n— x AAAAAAAA\n"
    extended = HONEST.checkpoint(4).body + "an extension line\n"
    for text, status in (
        ("go.sum database tree\n1\nAAAA\n", 404),
        (extended.replace(ORIGIN, "other.example"), 404),
        ("other.example\n", 404),
        (extended, 400),  # logs that are known here have none
        (f"{ORIGIN} \n4\n{'A' * 43}=\n", 404),
    ):
        request = AddCheckpoint(0, (), text + signed)
        assert make(store).add_checkpoint(request.encode()).status == status, text


def test_a_checkpoint_that_lacks_one_of_the_logs_signatures_is_forbidden(store: WitnessStore):
    imposter = Signer(ORIGIN, SignatureType.ED25519, b"\x09" * 32)
    for signers in ((LOG[0],), (LOG[1],), (imposter,)):
        request = AddCheckpoint(0, (), HONEST.note(4, signers))
        assert make(store).add_checkpoint(request.encode()).status == 403
    spoiled = HONEST.request(0, 4).replace(b"\n4\n", b"\n5\n")
    assert make(store).add_checkpoint(spoiled).status == 403
    assert store.latest(ORIGIN) is None


GOOD = HONEST.request(3, 20)
MALFORMED = [
    b"",
    b"\n",
    b"old 0\n",
    b"old 0",
    GOOD.replace(b"old 3", b"old 03"),
    GOOD.replace(b"old 3", b"old -3"),
    GOOD.replace(b"old 3", b"old +3"),
    GOOD.replace(b"old 3", b"old 3 "),
    GOOD.replace(b"old 3", b"old"),
    GOOD.replace(b"old 3", b"new 3"),
    GOOD.replace(b"\n", b"\r\n"),
    GOOD[:-1],
    GOOD + b"\n",
    GOOD + b"junk\n",
    GOOD.replace(b"old 3\n", b"old 3\nAAAA\n"),
    GOOD.replace(b"old 3\n", b"old 3\nnot base64\n"),
    b"old 3\n" + b"A" * 43 + b"=\n" + GOOD[6:],
    GOOD.replace(b"old 3\n", b"old 3\n" + (b"A" * 43 + b"=\n") * 64),
    b"\xff" + GOOD,
    GOOD.replace(b"log.example/test\n20", b"log.example/test\n020"),
    b"x" * 400_000,
]


@pytest.mark.parametrize("body", MALFORMED, ids=range(len(MALFORMED)))
def test_malformed_requests_are_bad_requests(store: WitnessStore, body: bytes):
    witness = make(store)
    witness.add_checkpoint(HONEST.request(0, 3))
    answer = witness.add_checkpoint(body)
    assert answer.status in {400, 422}
    assert answer.status == 400 or body.count(b"\n") > GOOD.count(b"\n")
    held = store.latest(ORIGIN)
    assert held is not None
    assert held.checkpoint.size == 3


@settings(max_examples=60, deadline=None)
@given(at=st.integers(0, len(GOOD) - 1), flip=st.integers(1, 255))
def test_no_changed_byte_of_a_request_moves_the_witness(at: int, flip: int):
    body = bytearray(GOOD)
    body[at] ^= flip
    with WitnessStore(Path(":memory:")) as store:
        witness = make(store)
        witness.add_checkpoint(HONEST.request(0, 3))
        assert witness.add_checkpoint(bytes(body)).status in {400, 403, 404, 409, 422}


def test_what_it_cosigned_survives_a_restart(tmp_path: Path):
    with WitnessStore(tmp_path / "witness.db") as store:
        make(store).add_checkpoint(HONEST.request(0, 8))
    with WitnessStore(tmp_path / "witness.db") as store:
        assert make(store).add_checkpoint(FORKED.request(0, 8)).status == 409
        assert make(store).add_checkpoint(FORKED.request(8, 12)).status == 422
        assert_cosigned(make(store).add_checkpoint(HONEST.request(8, 12)), 12)


def test_the_checkpoint_is_on_disk_before_a_cosignature_exists(
    store: WitnessStore, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(VARIABLE, "witness.after-persist:raise")
    with pytest.raises(InjectedFault):
        make(store).add_checkpoint(HONEST.request(0, 8))
    held = store.latest(ORIGIN)
    assert held is not None
    assert held.checkpoint.size == 8


def test_of_two_histories_submitted_at_once_only_one_is_ever_cosigned(store: WitnessStore):
    witness = make(store)
    assert witness.add_checkpoint(HONEST.request(0, 3)).status == 200
    barrier = threading.Barrier(4)

    def submit(tree: Tree) -> int:
        barrier.wait()
        return witness.add_checkpoint(tree.request(3, 9)).status

    with ThreadPoolExecutor(4) as pool:
        statuses = list(pool.map(submit, [HONEST, FORKED, HONEST, FORKED]))
    assert sorted(statuses) == [200, 409, 409, 409]


def test_growth_from_many_threads_never_goes_back(store: WitnessStore):
    witness = make(store)
    sizes: list[int] = []

    def climb(step: int) -> None:
        old = 0
        while old < 64:
            target = min(64, old + step)
            answer = witness.add_checkpoint(HONEST.request(old, target))
            if answer.status == 200:
                sizes.append(target)
                old = target
            else:
                old = parse_size(answer.body)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(climb, (3, 5, 7)))
    held = store.latest(ORIGIN)
    assert held is not None
    assert held.checkpoint == HONEST.checkpoint(64)
    assert len(sizes) == len(set(sizes)), "each size was reached by one request only"


def test_a_larger_tree_is_never_cosigned_with_an_earlier_time(store: WitnessStore):
    """A cosignature says that at its time this was the largest tree: another request may intervene."""
    seconds = itertools.count(1_700_000_000)
    smaller: list[Answer] = []
    entered = False

    def clock() -> float:
        nonlocal entered
        now = next(seconds)
        if not entered:
            entered = True
            smaller.append(witness.add_checkpoint(HONEST.request(0, 8)))
        return now

    witness = Witness(store, COSIGNERS, KNOWN, clock=clock)
    larger = witness.add_checkpoint(HONEST.request(8, 20))
    if larger.status != 200:
        larger = witness.add_checkpoint(HONEST.request(8, 20))
    times = [
        signature_time(
            HONEST.checkpoint(size), parse_cosignatures(answer.body), COSIGNERS[0].verifier
        )
        for size, answer in ((8, smaller[0]), (20, larger))
    ]
    assert times[0] is not None
    assert times[1] is not None
    assert times[0] < times[1]


def test_only_the_logs_own_signatures_are_kept(store: WitnessStore):
    stranger = Signer("stranger.example", SignatureType.COSIGNATURE_ED25519, b"\x08" * 32)
    note = (
        HONEST.note(4)
        + sign(Checkpoint("stranger.example", 4, b"\x00" * 32), [stranger], time_s=1)
        .encode()
        .split("\n\n")[1]
    )
    assert make(store).add_checkpoint(AddCheckpoint(0, (), note).encode()).status == 200
    held = store.latest(ORIGIN)
    assert held is not None
    assert "stranger" not in held.note
    assert held.note.count("\n— ") == 2


def test_keys_that_cannot_cosign_and_misnamed_log_keys_are_refused(store: WitnessStore):
    for signers, logs in (
        ((LOG[0],), KNOWN),
        ((), KNOWN),
        ((*COSIGNERS, Signer("x", SignatureType.COSIGNATURE_ED25519, b"\x05" * 32)), KNOWN),
        (COSIGNERS, {"other": KNOWN[ORIGIN]}),
        (COSIGNERS, {ORIGIN: ()}),
    ):
        with pytest.raises(CounterfoilError) as caught:
            Witness(store, signers, logs)
        assert caught.value.code is Code.CONFIGURATION


def test_a_database_that_cannot_be_opened_is_a_configuration_error(tmp_path: Path):
    (tmp_path / "witness.db").write_bytes(b"this is no database" * 100)
    with pytest.raises(CounterfoilError) as caught:
        WitnessStore(tmp_path / "witness.db")
    assert caught.value.code is Code.CONFIGURATION
