"""`python -m benchmarks.gpu`."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.common.machine import machine


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for; returns 1 if a bit differs, 2 if there is no card for it."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description="Bits and speed of the GPU backend."
    )
    parser.add_argument(
        "--part",
        action="append",
        choices=["bits", "speed", "tune"],
        help="bits and speed by default",
    )
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument(
        "--quick", action="store_true", help="a few bits in Triton's interpreter, without a card"
    )
    options = parser.parse_args(arguments)
    if options.quick:
        found = _quick()
    else:
        from shared.runtime.errors import CounterfoilError  # noqa: PLC0415  # as below

        try:
            found = _measured(options.part or ["bits", "speed"])
        except CounterfoilError as error:
            print(error, file=sys.stderr)
            return 2
    if options.json:
        options.json.write_text(json.dumps(found, indent=1), encoding="utf-8")
    from benchmarks.gpu.table import lines  # noqa: PLC0415  # as below

    print("\n".join(lines(found)))
    return int(any(each["differing"] for each in found.get("bits", ())))


def _quick() -> dict[str, Any]:
    os.environ["TRITON_INTERPRET"] = (
        "1"  # read when Triton is imported, so nothing of it may be imported before
    )
    import torch  # noqa: PLC0415

    from benchmarks.gpu.bits import bits  # noqa: PLC0415
    from shared.model.cuda.backend import CudaBackend  # noqa: PLC0415
    from tests.shared.model.cuda.interpreter import patched  # noqa: PLC0415

    device = torch.device("cpu")
    with patched():
        compared = bits(CudaBackend("fused-16", device), device, quick=True)
    return _report(
        {"card": "none: Triton's interpreter", "arithmetic": "fused-16", "bits": compared}
    )


def _measured(parts: Sequence[str]) -> dict[str, Any]:
    import torch  # noqa: PLC0415
    from triton import __version__ as triton  # noqa: PLC0415

    from shared.model.cuda.device import open_card  # noqa: PLC0415

    backend = open_card()
    from benchmarks.gpu.bits import bits  # noqa: PLC0415
    from benchmarks.gpu.speed import speed, tune  # noqa: PLC0415

    found = {
        "card": torch.cuda.get_device_name(0),
        "arithmetic": backend.arithmetic,
        "cuda": torch.version.cuda,
        "triton": triton,
    }
    if "bits" in parts:
        found["bits"] = bits(backend, torch.device("cuda", 0), quick=False)
    if "speed" in parts:
        found["speed"] = speed(backend)
    if "tune" in parts:
        found["tune"] = tune()
    return _report(found)


def _report(found: dict[str, Any]) -> dict[str, Any]:
    return {"benchmark": "gpu", "version": 1, "machine": machine(), **found}


if __name__ == "__main__":
    sys.exit(main())
