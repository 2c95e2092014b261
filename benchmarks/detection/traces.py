"""What nodes in this process compute for their commitments, kept beside the answers: what published schemes are made from."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np

from benchmarks.detection.baselines.bits import Bits
from shared.commitments.exact import ActivationHasher, Activations
from tests.adversaries.adversary import patched
from tests.adversaries.trial import Tried


@dataclass(frozen=True, slots=True)
class States:
    """Final hidden states of one sequence, as bits of bfloat16."""

    prompt: Bits | None
    """Of all prompt positions (P, D); None where a part of them came from the prefix cache."""
    output: Bits
    """Of the positions whose logits chose the output tokens (N, D): the prompt's last one, and all output tokens but the last."""


class Recorder:
    """Keeps the states of every commitment that is made while it watches, by the hashes of its output blocks."""

    def __init__(self) -> None:
        self._kept: dict[tuple[bytes, ...], States] = {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Record; what is computed stays the same. What was recorded before is forgotten."""
        append, finish = ActivationHasher.append, ActivationHasher.finish
        growing: WeakKeyDictionary[ActivationHasher, tuple[int, bytearray]] = WeakKeyDictionary()
        self._kept.clear()

        def appended(hasher: ActivationHasher, rows: bytes | memoryview) -> None:
            growing.setdefault(hasher, (hasher.position, bytearray()))[1].extend(rows)
            append(hasher, rows)

        def finished(hasher: ActivationHasher) -> Activations:
            found = finish(hasher)
            if hasher in growing:
                first, rows = growing.pop(hasher)
                table = np.frombuffer(rows, dtype="<u2").reshape(-1, hasher._row_bytes // 2)
                self._kept[found.output_blocks] = _parted(table, first, hasher._last)
            return found

        with patched(
            (ActivationHasher, "append", appended), (ActivationHasher, "finish", finished)
        ):
            yield

    def states(self, tried: Tried) -> States | None:
        """Return the states behind the output blocks that the node shows; None where it shows none that were ever computed."""
        if tried.evidence is None:
            return None
        return self._kept.get(tuple(tried.evidence.output_blocks))


def _parted(rows: Bits, first: int, last: int) -> States:
    """Part the rows of positions `first` … where the prompt's `last` position is."""
    return States(rows[: last + 1] if first == 0 else None, rows[max(0, last - first) :])
