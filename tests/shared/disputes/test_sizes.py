"""How long a referee's input is, by the shape of a model: what the protocol says of an 8B model."""

import pytest

from shared.disputes.layout import Layout
from shared.disputes.moves import MAX_CASE, MAX_MOVE, Parts
from shared.disputes.tree import cut
from tests.shared.disputes.shapes import CLAIM, ZERO, sizes


@pytest.fixture(scope="module")
def of_8b() -> dict[str, int]:
    return sizes(Layout(CLAIM))


def test_every_element_but_a_digest_of_an_8b_model_is_decided_from_64_kb(of_8b):
    digest = of_8b.pop("digests")
    assert max(of_8b.values()) == of_8b["states"]
    assert of_8b["states"] < 2**16
    assert digest < 2**19 < MAX_CASE  # 32 rows of hidden states


def test_a_game_about_an_8b_model_takes_few_steps_and_no_move_is_long():
    layout = Layout(CLAIM)
    steps, count = 0, layout.segments
    span = (0, count)
    while span[1] - span[0] > 1:
        parts = cut(*span, CLAIM.ways)
        assert len(Parts((ZERO,) * len(parts)).to_cbor()) < MAX_MOVE
        span, steps = parts[0], steps + 1
    assert (count, steps) == (
        8705,
        2,
    )  # of segments; rows and chunks of one operator are one more step each
