"""The witness's decision, apart from HTTP (C2SP tlog-witness `add-checkpoint`)."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

from audit_layer.witness.store import Held, Standing, WitnessStore
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.faults import fault_point
from shared.runtime.metrics import Counter
from shared.translog.checkpoint import Checkpoint, parse_checkpoint
from shared.translog.cosignature import cosign
from shared.translog.notes import Note, SignatureType, Signer, Verifier, parse_note
from shared.translog.proofs import verify_consistency
from shared.translog.signed_checkpoint import parse_and_verify
from shared.translog.tree import EMPTY_ROOT
from shared.translog.witness_protocol import (
    SIZE_CONTENT_TYPE,
    AddCheckpoint,
    encode_cosignatures,
    parse_add_checkpoint,
)

TEXT = "text/plain; charset=utf-8"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer."""

    status: int
    body: bytes
    content_type: str = TEXT


class _Refused(Exception):  # noqa: N818 - an answer, not an error of the program
    """Carries the answer out of the store's transaction."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.status)
        self.answer = answer


class Witness:
    """One witness: a store, its cosigning keys, and the logs it knows with their keys."""

    def __init__(
        self,
        store: WitnessStore,
        signers: Sequence[Signer],
        known_logs: Mapping[str, Sequence[Verifier]],
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`known_logs` maps an origin to its keys; all of them must sign (see `LogPolicy`).

        CONFIGURATION for a key that cannot cosign, for keys under several names, and for a log
        key that is not named after its origin.
        """
        names = {signer.verifier.name for signer in signers}
        if len(names) != 1 or any(s.verifier.kind is SignatureType.ED25519 for s in signers):
            raise CounterfoilError(
                Code.CONFIGURATION, "a witness needs cosigning keys (0x04, 0x06) under one name"
            )
        for origin, verifiers in known_logs.items():
            if not verifiers or any(verifier.name != origin for verifier in verifiers):
                raise CounterfoilError(
                    Code.CONFIGURATION, f"the keys of log {origin!r} are not named after its origin"
                )
        (self.name,) = names
        self._store = store
        self._signers = tuple(signers)
        self._known_logs = {origin: tuple(keys) for origin, keys in known_logs.items()}
        self._clock = clock
        self.answers = Counter()
        """Answers by status."""

    def add_checkpoint(self, body: bytes) -> Answer:
        """Answer one request. The new checkpoint is on disk before a cosignature exists."""
        answer = self._add(body)
        self.answers.add(str(answer.status))
        return answer

    def standings(self) -> list[Standing]:
        """Return how the log stands; nothing before its first checkpoint."""
        return self._store.standings()

    def forks(self) -> int:
        """Return how many checkpoints are kept as proof of a fork."""
        return self._store.fork_count()

    def _add(self, body: bytes) -> Answer:
        try:
            request = parse_add_checkpoint(body)
            note = parse_note(request.note)
            verifiers = self._known_logs.get(note.text.partition("\n")[0])
            if verifiers is None:  # whatever that log's checkpoints look like
                return _text(404, "this witness does not know the log")
            checkpoint = parse_checkpoint(note.text)
        except CounterfoilError as e:
            return _text(400, e.detail)
        try:
            parse_and_verify(request.note, verifiers)
        except CounterfoilError as e:
            return _text(403, e.detail)
        if request.old_size > checkpoint.size:
            return _text(400, f"the old size {request.old_size} is larger than the checkpoint's")
        return self._extend(request, checkpoint, note)

    def latest(self, origin: str) -> Held | None:
        """Return the latest checkpoint cosigned for a log."""
        return self._store.latest(origin)

    def latest_by_hash(self, origin_hash: str) -> Held | None:
        """Return the same for the hex SHA-256 of a known log's origin."""
        for origin in self._known_logs:
            if sha256(origin.encode()).hexdigest() == origin_hash:
                return self._store.latest(origin)
        return None

    def _extend(self, request: AddCheckpoint, checkpoint: Checkpoint, note: Note) -> Answer:
        fault_point("witness.before-persist")
        try:
            time_s = self._store.advance(
                checkpoint,
                _log_signed(note, self._known_logs[checkpoint.origin]),
                self._clock,
                lambda held: self._decide(request, checkpoint, held),
            )
        except _Refused as refused:
            self._keep_evidence(checkpoint, request.note, int(self._clock()))
            return refused.answer
        fault_point("witness.after-persist")
        lines = [cosign(signer, checkpoint, time_s=time_s) for signer in self._signers]
        return Answer(200, encode_cosignatures(lines))

    def _keep_evidence(self, checkpoint: Checkpoint, note: str, now_s: int) -> None:
        """Keep the second of two roots that the log signed for one size."""
        held = self._store.latest(checkpoint.origin)
        if (
            held is not None
            and held.checkpoint.size == checkpoint.size
            and held.checkpoint.root != checkpoint.root
        ):
            _log.error("log %s has signed two roots at size %d", checkpoint.origin, checkpoint.size)
            self._store.record_fork(checkpoint, note, now_s)

    def _decide(self, request: AddCheckpoint, checkpoint: Checkpoint, held: Held | None) -> None:
        """Raise _Refused unless the checkpoint extends what is held, from the old size named."""
        size = held.checkpoint.size if held else 0
        root = held.checkpoint.root if held else EMPTY_ROOT
        if request.old_size != size:
            raise _Refused(Answer(409, f"{size}\n".encode(), SIZE_CONTENT_TYPE))
        if checkpoint.size == size and checkpoint.root != root:
            raise _Refused(Answer(409, f"{size}\n".encode(), SIZE_CONTENT_TYPE))
        try:
            verify_consistency(size, root, checkpoint.size, checkpoint.root, request.proof)
        except CounterfoilError as e:
            raise _Refused(_text(422, e.detail)) from e


def _log_signed(note: Note, verifiers: Sequence[Verifier]) -> str:
    """Return the note with only the log's own signatures: strangers' lines are not worth keeping."""
    known = {(verifier.name, verifier.key_id) for verifier in verifiers}
    lines = tuple(line for line in note.signatures if (line.name, line.key_id) in known)
    return Note(note.text, lines).encode()


def _text(status: int, message: str) -> Answer:
    return Answer(status, f"{message}\n".encode())
