"""Bills and claims that the work does not bear out."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Final

from execution_layer.engine.engine import LocalEngine
from execution_layer.engine.sequence import SequenceState
from shared.model.sampler import Sampled
from shared.runtime.errors import Code
from shared.statements.receipts import EnergyQuality, Receipt, Usage
from shared.statements.verdicts import Reason
from shared.text.tokenizer import Tokenizer
from tests.adversaries.adversary import Adversary, patched
from tests.adversaries.receipts import receipt_changed, usage_changed
from tests.adversaries.sampling import TOKENS

HOUR_MS: Final = 3_600_000
USAGE = frozenset({Reason.USAGE})
IMPLAUSIBLE = frozenset({Reason.IMPLAUSIBLE})
REFUSED = frozenset({Code.COMMITMENT_MISMATCH})


def split_in_two(tokenizer: Tokenizer, token: int) -> tuple[int, ...]:
    """Return two tokens with the text of one, or the one if there are none."""
    text = tokenizer.decode([token])
    for place in range(1, len(text)):
        parts = tokenizer.encode(text[:place]), tokenizer.encode(text[place:])
        pair = (*parts[0], *parts[1])
        if len(pair) == 2 and tokenizer.decode(pair) == text:  # one token each
            return pair
    return (token,)


@contextmanager
def retokenised() -> Iterator[None]:
    """Deliver a token as two shorter ones with the same text wherever that can be done; the states are those of the two.

    It cannot be done where log-probabilities are to be told of each token, nor at the end: the first one's state would be missing.
    """
    ordinary = LocalEngine._take

    @cache
    def parts_of(tokenizer: Tokenizer, token: int) -> tuple[int, ...]:
        return (token,) if tokenizer.is_silent(token) else split_in_two(tokenizer, token)

    def take(self: LocalEngine, sequence: SequenceState, chosen: Sampled) -> None:
        settings = sequence.request.settings
        room = len(sequence.output) + 2 < settings.max_tokens and settings.logprobs is None
        parts = parts_of(self._tokenizer, chosen.token) if room else (chosen.token,)
        for token in parts:
            if sequence.ended is None:
                ordinary(self, sequence, replace(chosen, token=token))

    with patched((LocalEngine, "_take", take)):
        yield


def hidden_tokens(usage: Usage) -> Usage:
    """Bill an eighth more output tokens, as if there had been reasoning that nobody is shown."""
    return replace(usage, output=usage.output + 1 + usage.output // 8)


def longer_prompt(usage: Usage) -> Usage:
    """Bill a prompt that fills one more commitment block than there is."""
    return replace(usage, input=usage.input + 32)


def years_of_compute(usage: Usage) -> Usage:
    """Claim to have computed for 12 days."""
    return replace(usage, compute_ms=10**9)


def a_city_of_energy(usage: Usage) -> Usage:
    """Claim to have measured 278 kWh."""
    return replace(usage, energy_mj=10**12, energy_quality=EnergyQuality.MEASURED)


def before_its_order(receipt: Receipt) -> Receipt:
    """Claim to have begun an hour ago."""
    return replace(receipt, started=receipt.started - HOUR_MS)


ADVERSARIES = (
    Adversary(
        "retokenised",
        "delivers one token as two with the same text, and bills two",
        retokenised,
        TOKENS,
    ),
    Adversary(
        "hidden-tokens",
        "bills output tokens that nobody is shown",
        lambda: usage_changed(hidden_tokens),
        USAGE,
        REFUSED,
    ),
    Adversary(
        "longer-prompt",
        "bills a longer prompt than its own commitment blocks have",
        lambda: usage_changed(longer_prompt),
        USAGE,
        REFUSED,
    ),
    Adversary(
        "compute-time",
        "claims 10^9 ms of compute",
        lambda: usage_changed(years_of_compute),
        IMPLAUSIBLE,
        REFUSED,
    ),
    Adversary(
        "energy",
        "claims 10^12 mJ of measured energy",
        lambda: usage_changed(a_city_of_energy),
        IMPLAUSIBLE,
        REFUSED,
    ),
    Adversary(
        "invented-times",
        "claims to have begun an hour before the order",
        lambda: receipt_changed(before_its_order),
        IMPLAUSIBLE,
        REFUSED,
    ),
)
