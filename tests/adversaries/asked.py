"""A handful of requests that between them use what adversaries meddle with.

Every one has a seed, so that two runs of one node are the same to the bit. Prompts are long enough for windows and
truncation, temperatures high enough for seeds and filters to matter.
"""

from collections.abc import Sequence
from typing import Final

from shared.statements.request import Message, RequestBody, SamplingSettings
from tests.adversaries.trial import Ask

WORDY: Final = (
    "The fox lives in the forest. The owl eats mice and the beaver builds a house of wood in the river. "
    "A receipt is a signed statement of what a node has done, so that every bill can be checked against it. "
    "Now please tell me everything about the beaver."
)
CHOSEN: Final = (700).to_bytes(16, "big")
"""A request on which `one-in-hundred` cheats."""


def _chat(
    content: str, settings: SamplingSettings, place: int, request_id: bytes | None = None
) -> Ask:
    body = RequestBody(settings, (Message("user", content),), seed=bytes([place]) * 32)
    return Ask(body, request_id)


REQUESTS: Final[Sequence[Ask]] = (
    _chat("What does the owl eat?", SamplingSettings(24, temperature_ppm=0, logprobs=2), 1),
    _chat("Tell me everything about the beaver.", SamplingSettings(40, logprobs=0), 2),
    _chat(WORDY, SamplingSettings(32, temperature_ppm=1_300_000), 3),
    _chat(
        "How do I make apple cake?",
        SamplingSettings(40, temperature_ppm=1_200_000, top_k=40, stop=(" the",)),
        4,
    ),
    _chat(
        "Why do we need a witness?",
        SamplingSettings(24, temperature_ppm=1_500_000, top_p_ppm=950_000),
        5,
        request_id=CHOSEN,
    ),
)
