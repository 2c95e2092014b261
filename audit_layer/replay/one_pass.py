"""An arithmetic that makes a pass once and remembers it, for several receipts of one answer."""

from collections.abc import Sequence
from typing import Any

from audit_layer.replay.hearing import Arithmetic, Replayed
from shared.statements.request import RequestBody, SamplingSettings


class OnePass:
    """Implements `Arithmetic` by another one; keeps the last pass."""

    def __init__(self, arithmetic: Arithmetic) -> None:
        self._arithmetic = arithmetic
        self._last: tuple[tuple[Any, ...], Replayed] | None = None

    @property
    def profile(self) -> bytes:
        """Hash of the numeric profile."""
        return self._arithmetic.profile

    @property
    def layers(self) -> int:
        """How many layers the model has."""
        return self._arithmetic.layers

    def tokenise(self, body: RequestBody) -> tuple[int, ...]:
        """As the arithmetic does."""
        return self._arithmetic.tokenise(body)

    def check(self, prompt: Sequence[int], output: Sequence[int]) -> None:
        """As the arithmetic does."""
        self._arithmetic.check(prompt, output)

    def replay(
        self,
        prompt: Sequence[int],
        output: Sequence[int],
        settings: SamplingSettings,
        seed: bytes,
        choice: int,
        delivered: int = 0,
        cuts: Sequence[int] = (),
    ) -> Replayed:
        """Replay, unless the last pass was the same."""
        asked = (prompt, output, settings, seed, choice, delivered, cuts)
        if self._last is None or self._last[0] != asked:
            self._last = asked, self._arithmetic.replay(*asked)
        return self._last[1]

    def says(
        self,
        frames: Sequence[tuple[Sequence[int], str]],
        settings: SamplingSettings,
        prefix: Sequence[int] = (),
        *,
        ended: bool,
    ) -> bool:
        """As the arithmetic does."""
        return self._arithmetic.says(frames, settings, prefix, ended=ended)

    def stops_at(
        self, output: Sequence[int], settings: SamplingSettings, prefix: Sequence[int] = ()
    ) -> int | None:
        """As the arithmetic does."""
        return self._arithmetic.stops_at(output, settings, prefix)
