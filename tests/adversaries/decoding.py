"""Tokens of a cheap model under the honest model's states, and layers that are not run."""

from tests.adversaries.adversary import Adversary
from tests.adversaries.sampling import TOKENS
from tests.adversaries.two_models import drafting, early_exit
from tests.adversaries.weights import STATES

VERIFIED_EVERY = 4

ADVERSARIES = (
    Adversary(
        "early-exit",
        "leaves the model after half of its layers while it decodes",
        early_exit,
        STATES,
    ),
    Adversary(
        "cheap-decode",
        "takes every token from a cheap model; the honest one only prefills, for the proofs",
        lambda: drafting(lambda _: True),
        TOKENS,
    ),
    Adversary(
        "unverified-drafts",
        "accepts three of four tokens of a draft model without verification",
        lambda: drafting(lambda sequence: len(sequence.output) % VERIFIED_EVERY != 0),
        TOKENS,
    ),
)
