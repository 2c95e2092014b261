"""Whole passes on the GPU backend have the bits of the vectors and of the CPU backend; kernels with one thing changed do not."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from hashlib import sha256

import numpy as np
import pytest
import torch

from shared.model.backend import Backend, Rows
from shared.model.cpu import CpuBackend
from shared.model.cuda import graphs, operations
from shared.model.cuda.backend import CudaBackend
from shared.model.cuda.tiles import ANY, Table, Tile
from shared.model.decoder import Embedding, Head, Stage
from shared.model.fused import FUSED
from shared.model.probe import probe
from shared.model.profile import PROBES, numeric_profile
from shared.runtime.errors import Code, CounterfoilError
from tests.shared.model.cuda.interpreter import patched
from tests.shared.model.cuda.mutants import mutated
from tests.shared.model.cuda.passes import ALL, CONFIG, FEW, SHORT, differences, run, weights
from tests.vectors import arithmetic as written
from tests.vectors.arithmetic import CHUNKS, PASS, TOKENS, hexadecimal, values_of
from tests.vectors.files import Json, load

CPU = torch.device("cpu")


def gpu(arithmetic: str = "fused-16", table: Table | None = None) -> CudaBackend:
    return CudaBackend(arithmetic, CPU, table)


@cache
def expected(passes: tuple, arithmetic: str = "fused-16") -> list[torch.Tensor]:
    return run(CpuBackend(arithmetic=arithmetic), passes)


# ---- the vectors ----------------------------------------------------------------------------------------------------


@cache
def vectors() -> Json:
    (found,) = (
        each for each in load("arithmetic")["arithmetics"] if each["arithmetic"] == "fused-16"
    )
    return dict(found)


def narrow(rows: str | list[str]) -> torch.Tensor:
    """Return bfloat16 of the vectors, one row or several."""
    values = (
        values_of(rows, 4)
        if isinstance(rows, str)
        else np.array([values_of(row, 4) for row in rows])
    )
    return torch.from_numpy(values).bfloat16()


def test_the_vectors_of_products():
    backend = gpu()
    for case in vectors()["products"]:
        bias = None if case["bias"] is None else torch.from_numpy(values_of(case["bias"]))
        packed = backend.pack(narrow(case["weight"]), bias)
        out = backend.linear(narrow(case["x"]), packed)
        assert [hexadecimal(row) for row in out.numpy()] == case["out"], case["name"]


def test_the_vectors_of_norms():
    for case in vectors()["norms"]:
        x = torch.from_numpy(np.array([values_of(row) for row in case["x"]]))
        found = gpu().norm(
            x, torch.from_numpy(values_of(case["weight"])), case["eps"], torch.bfloat16
        )
        assert found.view(torch.int16).tolist() == narrow(case["out"]).view(torch.int16).tolist()


def test_the_vectors_of_a_pass():
    case, config, backend = vectors()["pass"], replace(PASS, dtype="bfloat16"), gpu()
    made = {
        name: torch.from_numpy(np.ascontiguousarray(x)).bfloat16()
        for name, x in written.pass_weights("bfloat16").items()
    }
    head, embedding = Head(config, made, backend), Embedding(config, made, backend)
    stage = Stage(config, made, backend, 0, 2)
    memory, done, parts = stage.cache(1), 0, []
    for count in CHUNKS:
        parts.append(
            stage(embedding(TOKENS[done : done + count]), [Rows(count, done, (1,))], memory)
        )
        done += count
    states = torch.cat(parts)
    hidden = head.hidden(states)
    found = {"states": states, "hidden": hidden, "logits": head.logits(hidden)}
    for name, values in found.items():
        assert sha256(backend.to_host(values)).hexdigest() == case[f"{name}_sha256"], name


# ---- passes ---------------------------------------------------------------------------------------------------------


def test_passes_have_the_bits_of_the_cpu():
    assert differences(run(gpu(), ALL), expected(ALL)) == 0


def test_passes_have_the_bits_of_the_cpu_under_fused_8():
    with patched("fused-8"):
        assert differences(run(gpu("fused-8"), FEW), expected(FEW, "fused-8")) == 0


WIDTHS = {
    "head width 8, inner size 172": {
        "hidden_size": 64,
        "heads": 8,
        "kv_heads": 4,
        "head_dim": 8,
        "intermediate_size": 172,
        "vocab_size": 281,
        "qkv_bias": False,
        "qk_norm": False,
    },
    "nothing smaller": {
        "hidden_size": 1,
        "head_dim": 2,
        "intermediate_size": 1,
        "vocab_size": 1,
    },
    "wider than the padding": {
        "hidden_size": 130,
        "heads": 1,
        "head_dim": 130,
        "intermediate_size": 47,
    },
}


@pytest.mark.parametrize("widths", WIDTHS)
@pytest.mark.parametrize("arithmetic", FUSED)
def test_widths_that_are_no_multiples_of_anything_have_the_bits_of_the_cpu(widths, arithmetic):
    config = replace(CONFIG, **WIDTHS[widths])
    passes = (((0, 20), (1, 2)), ((1, 1), (0, 1)))
    with patched(arithmetic):
        found = run(gpu(arithmetic), passes, config=config)
    assert differences(found, run(CpuBackend(arithmetic=arithmetic), passes, config=config)) == 0


def test_passes_in_other_tiles_have_the_same_bits():
    table = Table(99 << 10, copies=False, tiles={ANY: {"": Tile(32, 16, 64, 2, 1)}})
    assert differences(run(gpu(table=table), SHORT), expected(SHORT)) == 0


def test_rows_outside_positions_cache_or_blocks_are_refused():
    backend = gpu()
    stage = Stage(CONFIG, weights(), backend, 0, 1)
    memory, states = stage.cache(2), torch.zeros(1, CONFIG.hidden_size)
    for rows in (Rows(1, 400, (1, 2)), Rows(1, 128, (1,)), Rows(1, 0, (3,)), Rows(1, 0, (0,))):
        with pytest.raises(ValueError, match="outside"):
            stage(states, [rows], memory)


def test_the_bytes_of_a_block_are_those_that_the_cache_takes():
    backend = gpu()
    memory = backend.cache(CONFIG, 3)
    taken = sum(each.nbytes for each in (*memory.keys, *memory.values))
    assert taken == 4 * backend.block_bytes(CONFIG)


# ---- graphs ---------------------------------------------------------------------------------------------------------


class Recorder:
    """Stands for a CUDA graph: what runs while it is recorded runs again when it is replayed."""

    def __init__(self) -> None:
        self.replays = 0
        self.again: Callable[[], None] | None = None

    def replay(self) -> None:
        assert self.again is not None
        self.replays += 1
        self.again()

    def pool(self) -> object:
        return self


@pytest.fixture
def recorders(monkeypatch) -> list[Recorder]:
    """Let the backend record its passes as on a card."""
    made: list[Recorder] = []

    class Recording(graphs.Graphs):
        def __init__(self, function, device):
            def called(*arguments):
                if made and made[-1].again is None:
                    made[-1].again = lambda: function(*arguments)
                function(*arguments)

            super().__init__(called, device)
            self._records = True

    @contextmanager
    def graph(recorder: Recorder, pool: object, capture_error_mode: str) -> Iterator[None]:
        recorder.again = None
        made.append(recorder)
        yield

    monkeypatch.setattr("shared.model.cuda.backend.Graphs", Recording)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Recorder)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    return made


def test_recorded_passes_of_single_rows_have_the_same_bits(recorders):
    """Three rows are recorded as four, two as two; passes with chunks are not. The row too many belongs to no sequence."""
    passes = (
        *SHORT,
        ((1, 1), (2, 1), (0, 1)),
        ((0, 1), (2, 1)),
        ((2, 3),),
        ((1, 1), (0, 1), (2, 1)),
    )
    assert differences(run(gpu(), passes), expected(passes)) == 0
    assert [each.replays for each in recorders] == [2, 2]


# ---- the probe ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_probe_has_the_value_that_is_written_down():
    assert probe("bfloat16", gpu()) == PROBES["fused-16", "bfloat16"]


def refusal(backend: Backend) -> str:
    with pytest.raises(CounterfoilError) as caught:
        numeric_profile("bfloat16", backend)
    assert caught.value.code is Code.CONFIGURATION
    return str(caught.value)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_card_with_another_arithmetic_than_its_name_says_is_refused_and_whose_bits_it_has_is_said():
    with patched("fused-8"):
        assert (
            "probe of fused-16 in bfloat16 gives bits other than defined: those of fused-8"
            in refusal(gpu())
        )


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_kernels_that_compute_something_else_do_not_serve(tmp_path, monkeypatch):
    monkeypatch.setattr(operations, "kernels", mutated("a chunk sees what follows", tmp_path))
    assert "those of no known arithmetic" in refusal(gpu())
