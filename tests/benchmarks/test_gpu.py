"""The benchmark of the GPU backend: its comparisons run without a card, everything else says that there is none."""

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.gpu.__main__ import main
from benchmarks.gpu.table import lines
from shared.runtime import cards

FOUND = {
    "card": "H100",
    "arithmetic": "fused-16",
    "machine": {"torch": "2.13.0"},
    "bits": [{"what": "products", "values": 10, "differing": 1}],
    "speed": {
        "copy_bytes_per_s": 3e12,
        "decode": [
            {"batch": 1, "context": 512, "ms": 5.7, "tokens_per_s": 174.0, "share_of_copy": 0.88}
        ],
        "prefill": {"tokens": 2048, "ms": 54.5, "tokens_per_s": 37_600.0},
    },
    "tune": [{"product": "o", "rows": 1, "best": "Tile(…)", "ms": 0.1}],
}


def test_a_quick_run_compares_in_the_interpreter_and_finds_no_difference(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("tests.shared.model.cuda.passes.ALL", (((0, 5),), ((0, 1),)))
    assert main(["--quick", "--json", str(tmp_path / "found.json")]) == 0
    found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    assert (found["benchmark"], found["version"], found["arithmetic"]) == ("gpu", 1, "fused-16")
    assert all(each["values"] > 100 and each["differing"] == 0 for each in found["bits"])
    assert "0 of" in capsys.readouterr().out


def test_without_a_card_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr(cards, "DRIVER", "libcuda_of_no_machine.so")
    assert main([]) == 2
    assert "there is no NVIDIA driver" in capsys.readouterr().err


def test_the_figures_are_shown():
    shown = "\n".join(lines(FOUND))
    for part in ("1 of         10 values differ", "3.00 TB/s", "5.70 ms", "54.5 ms", "Tile(…)"):
        assert part in shown


def test_it_needs_nothing_but_torch_triton_and_numpy():
    """So a checkout on a machine with a card is enough."""
    modules = (
        "benchmarks.gpu.bits, benchmarks.gpu.speed, benchmarks.gpu.table, shared.model.cuda.device"
    )
    lines = [
        "import sys, numpy, torch, triton",
        "before = set(sys.modules)",
        f"import benchmarks.gpu.__main__, {modules}",
        "print(*sorted({name.partition('.')[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)))",
    ]
    root = Path(__file__).parents[2]
    ended = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], cwd=root, check=True, capture_output=True, text=True, timeout=100
    )  # fmt: skip
    assert set(ended.stdout.split()) <= {
        "benchmarks",
        "numpy",
        "shared",
        "tests",
        "torch",
        "triton",
    }
