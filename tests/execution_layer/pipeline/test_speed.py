"""What a stage claims of its speed is measured on what it computes."""

import time

import pytest

from execution_layer.pipeline.speed import CHUNK, measured


class Counting:
    """A stage that does nothing and takes its time."""

    first, last = 0, 1

    def __init__(self, pause_s=0.0):
        self.pause_s = pause_s
        self.steps = []
        self.blocks = 0

    def cache(self, blocks):
        self.blocks = blocks
        return object()

    def __call__(self, states, rows, cache):
        (span,) = rows
        assert states.shape == (span.count, 8)
        assert max(span.blocks) <= self.blocks
        self.steps.append((span.count, span.position))
        time.sleep(self.pause_s)
        return states


@pytest.mark.parametrize(("blocks", "rows"), [(100, CHUNK), (2, 32)])
def test_chunks_and_single_rows_are_measured_within_the_memory_that_there_is(blocks, rows):
    stage = Counting()
    speed = measured(stage, width=8, size=16, blocks=blocks, budget_s=0.0)
    assert stage.steps == [(rows, 0), (rows, 0), (1, rows - 1), (1, rows - 1)]
    assert min(speed.decode_rows, speed.prefill_rows) >= 1


def test_a_slow_stage_claims_no_more_than_it_did():
    speed = measured(Counting(pause_s=0.01), width=8, size=16, blocks=8, budget_s=0.03)
    assert speed.decode_rows <= 100
    assert speed.prefill_rows <= 100 * CHUNK
