"""What a stage claims of its speed is measured on what it computes."""

import time

import pytest

from execution_layer.pipeline import speed
from execution_layer.pipeline.speed import CHUNK, node_speed, stage_speed
from shared.model.decoder import load_decoder
from tests.shared.model import tiny


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


@pytest.mark.parametrize(("blocks", "rows"), [(100, CHUNK), (2, 32), (6, 90)])
def test_chunks_and_single_rows_are_measured_within_the_memory_and_positions_that_there_are(
    monkeypatch, blocks, rows
):
    monkeypatch.setattr(speed, "BUDGET_S", 0.0)
    stage = Counting()
    found = stage_speed(stage, width=8, size=16, blocks=blocks, positions=max(90, rows))
    assert stage.steps == [(rows, 0), (rows, 0), (1, rows - 1), (1, rows - 1)]
    assert min(found.decode_rows, found.prefill_rows) >= 1


def test_a_slow_stage_claims_no_more_than_it_did(monkeypatch):
    monkeypatch.setattr(speed, "BUDGET_S", 0.03)
    found = stage_speed(Counting(pause_s=0.01), width=8, size=16, blocks=8, positions=256)
    assert found.decode_rows <= 100
    assert found.prefill_rows <= 100 * CHUNK


def test_a_node_is_measured_with_its_own_layers_or_without_any(monkeypatch, tmp_path):
    monkeypatch.setattr(speed, "BUDGET_S", 0.0)
    decoder = load_decoder(tiny.write_folder(tmp_path / "model"), backend=tiny.BACKEND)
    for own in (decoder.stage, None):
        found = node_speed(decoder, own, size=tiny.BACKEND.block, blocks=4, positions=40)
        assert min(found.decode_rows, found.prefill_rows) >= 1
