"""Orders for parts, as a benchmark's stages accept them: all of them were, and nothing is signed."""

from collections.abc import Sequence

from execution_layer.pipeline.answers import Answers
from execution_layer.pipeline.parts import Computed, Counts, Offered, Part
from shared.codec.hashing import labelled_hash
from shared.envelope.stages import BoundarySecret

REQUESTS = tuple(str(number) for number in range(64))
POSITIONS = 2**20
"""Of an order: they are used again and again."""


class KnownParts:
    """Finds the parts of all requests at one place of a chain."""

    def __init__(self, place: int, head: str) -> None:
        self._known = {
            _order(request, place): Part(
                _order(request, place),
                _ctx(request),
                head,
                _secret(request, place - 1),
                _secret(request, place),
                POSITIONS,
            )
            for request in REQUESTS
        }

    def find(self, order: bytes) -> Part | None:
        """Return a part."""
        return self._known.get(order)

    async def accept(self, offered: Offered, caller: str) -> bytes:
        """Nobody asks."""
        raise NotImplementedError

    async def close(self, order: bytes, counts: Counts, caller: str, computed: Computed) -> bytes:
        """Nobody asks."""
        raise NotImplementedError


def opened(size: int, width: int, places: Sequence[int]) -> Answers:
    """Return the answers of a head whose requests are all open, with stages at these places."""
    answers = Answers(size, width)
    for request in REQUESTS:
        secrets = _secret(request, places[-1]), _secret(request, 0)
        orders = [_order(request, place) for place in places]
        answers.open(request, _order(request, 0), _ctx(request), secrets, orders)
    return answers


def _order(request: str, place: int) -> bytes:
    return labelled_hash("benchmark order", request.encode(), bytes([place]))


def _ctx(request: str) -> bytes:
    return labelled_hash("benchmark ctx", request.encode())


def _secret(request: str, index: int) -> BoundarySecret:
    return BoundarySecret.derive(labelled_hash("benchmark secret", request.encode()), index)
