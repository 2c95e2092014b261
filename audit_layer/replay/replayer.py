"""The worker's handle on its replay process: one child, one case at a time, restarted when it dies."""

import contextlib
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from audit_layer.replay.case import Case
from audit_layer.replay.framing import (
    MAX_ANSWER,
    MAX_MEMBERS,
    excess,
    read_message,
    write_case,
)
from audit_layer.replay.judge import Judged
from audit_layer.replay.lease import Kind, Speeds
from shared.codec import cbor
from shared.codec.fields import Reader
from shared.runtime.errors import Code, CounterfoilError
from shared.verification.judgement import Judgement

logger = logging.getLogger(__name__)


class ReplayFailedError(CounterfoilError):
    """The auditor's own process did not judge a case; UNAVAILABLE or INTERNAL."""


class Replayer:
    """Judges cases in a child process. Safe to call from several threads; calls queue.

    A child that dies, answers nonsense or takes too long is killed and replaced at the next call, and the call raises
    ReplayFailedError: the case is not judged. A case may take `timeout_s` plus `per_token_s` for each of its tokens.

    `speeds` holds what it has seen: replays by a child that has the model loaded.
    """

    def __init__(
        self,
        models: Sequence[Path],
        *,
        threads: int,
        timeout_s: float,
        per_token_s: float = 0.0,
    ) -> None:
        self._command = [
            *(sys.executable, "-m", "audit_layer.replay.child", "--threads", str(threads)),
            *(str(folder) for folder in models),
        ]
        self._timeout_s = timeout_s
        self._per_token_s = per_token_s
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._loaded: set[Kind] = set()
        self.speeds = Speeds()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def judge(
        self,
        case: Case,
        *,
        kind: Kind = (b"", b""),
        tokens: int = 0,
        longest: int | None = None,
    ) -> Judgement:
        """Judge one case by itself, as `judge_chain` does."""
        return self.judge_chain(case, kind=kind, tokens=tokens, longest=longest).judgement

    def judge_chain(
        self,
        case: Case,
        *,
        kind: Kind = (b"", b""),
        tokens: int = 0,
        longest: int | None = None,
    ) -> Judged:
        """Judge one case, and the others of its chain where that says who gave it what was wrong; raises ReplayFailedError.

        `tokens` is how many prompt and output have by the receipt, `longest` how many may be replayed.
        """
        frames = tuple(case.frames)
        if (larger := excess(case, frames)) is not None:
            raise ReplayFailedError(Code.INTERNAL, f"a case with {larger} is no receipt's case")
        with self._lock:
            child = self._running()
            began = time.monotonic()
            timer = threading.Timer(self._timeout_s + tokens * self._per_token_s, child.kill)
            timer.start()
            try:
                assert child.stdin is not None
                assert child.stdout is not None
                write_case(child.stdin, case, frames, longest)
                answer = read_message(child.stdout, MAX_ANSWER)
            except OSError:
                answer = None
            finally:
                timer.cancel()
            judged = None if answer is None else _parse(answer)
            if judged is None:
                if answer is None:  # its output ended a moment before the process did
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        child.wait(timeout=1)
                self._end(child)
                raise ReplayFailedError(
                    Code.UNAVAILABLE, "the replay process ended before it judged the case"
                )
            self._note(kind, judged.judgement, time.monotonic() - began)
        return judged

    def _note(self, kind: Kind, judgement: Judgement, took_s: float) -> None:
        """Count a replay for `speeds`: one that was made, and not the first, which loads the model.

        Its tokens are those that the child found: the receipt's are the node's word.
        """
        if "blocks" not in judgement.facts:
            return
        found = [judgement.facts.get(name) for name in ("prompt_tokens", "output_tokens")]
        if kind in self._loaded:
            self.speeds.note(kind, sum(n for n in found if isinstance(n, int)), took_s)
        self._loaded.add(kind)

    def close(self) -> None:
        """End the child."""
        with self._lock:
            if self._child is not None:
                self._end(self._child)

    def _running(self) -> subprocess.Popen[bytes]:
        if self._child is not None and self._child.poll() is not None:
            self._end(self._child)
        if self._child is None:
            self._loaded.clear()
            self._child = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=dict(os.environ)
            )
        return self._child

    def _end(self, child: subprocess.Popen[bytes]) -> None:
        if (code := child.poll()) is not None:
            how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
            logger.warning("the replay process %s", how)
        child.kill()
        for stream in (child.stdin, child.stdout):
            if stream is not None:
                try:
                    stream.close()
                except BrokenPipeError:
                    continue
        child.wait()
        self._child = None


def _parse(answer: bytes) -> Judged | None:
    """Return the judgements; None if the answer is none; INTERNAL for an error that the child reports."""
    try:
        read = Reader(cbor.decode(answer, max_bytes=MAX_ANSWER), "answer")
        if read.has("error"):
            error = read.text("error")
            read.done()
        else:
            given = read.has("others")
            others = read.map_of("others", bytes, bytes, max_items=MAX_MEMBERS) if given else {}
            judged = Judged(
                Judgement.from_bytes(read.bytes("judgement")),
                {entry: Judgement.from_bytes(found) for entry, found in others.items()},
            )
            read.done()
            return judged
    except CounterfoilError:  # nonsense
        return None
    raise ReplayFailedError(Code.INTERNAL, f"the replay process failed: {error}")
