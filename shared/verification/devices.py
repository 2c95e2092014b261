"""What processors can do at most, as their vendors say: a small dated table, and the form of a file that adds to it. Pure.

Figures are peaks of *dense* products at the boost clock, with the fastest accumulation that the device has, so that
bounds made from them err towards believing a claim. Each names the vendor's document; the figures were compared with
pages that quote it. Nobody measured idle power for this table, so it has none.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.printable import printable

MAX_BYTES: Final = 2**20
"""The longest file that is read."""
MAX_DEVICES: Final = 1000


@dataclass(frozen=True, slots=True)
class Device:
    """One processor: a card, a module, or a socket with its memory."""

    name: str
    flops: Mapping[int, float]
    """Dense operations per second by bits of a number: 16, 8, 4. A product and its sum are two operations."""
    bandwidth: float
    """Bytes per second from the memory that holds the weights."""
    on_chip: float
    """Bytes that can stay on the chip from step to step, rounded up: caches, registers, shared memory."""
    watts: float
    """Power cap of the whole board, W."""
    source: str
    """Where the figures are from."""
    dated: str
    """When they were looked up, ISO 8601."""
    idle_watts: float | None = None
    """Power with a model loaded and nothing to do, W, where somebody measured it."""

    def peak(self, bits: int) -> float:
        """Return the most operations per second on numbers of so many bits.

        Without a figure for them it is the next shorter numbers' rate, which is at least as high; below the shortest,
        the shortest's, because the device widens what it has no products for.
        """
        able = [each for each in self.flops if each <= bits]
        return self.flops[max(able) if able else min(self.flops)]


LOOKED_UP: Final = "2026-11-28"
_HOPPER: Final = "NVIDIA H100 Tensor Core GPU data sheet and Hopper architecture white paper"
_AMPERE: Final = (
    "NVIDIA A100 Tensor Core GPU data sheet (1758950) and Ampere architecture white paper"
)
_ADA: Final = "NVIDIA Ada GPU architecture white paper"


def _gpu(
    name: str,
    teraflops: tuple[float, ...],
    terabytes: float,
    megabytes: float,
    watts: float,
    source: str,
) -> Device:
    """Return a device from TFLOP/s at 16, 8 and (if it has such products) 4 bits, TB/s, MB on the chip, W."""
    rates = {bits: rate * 1e12 for bits, rate in zip((16, 8, 4), teraflops, strict=False)}
    return Device(name, rates, terabytes * 1e12, megabytes * 1e6, watts, source, LOOKED_UP)


_KNOWN: Final = (
    _gpu("h100-sxm", (989.4, 1978.9), 3.35, 130, 700, _HOPPER),
    # The data sheet says 2 TB/s, the product brief (PB-11133) "greater than"; 5,120 bits at 3.186 Gbit/s give 2.039.
    _gpu("h100-pcie", (756.5, 1513), 2.04, 120, 350, f"{_HOPPER}; product brief PB-11133"),
    _gpu("h200", (989.4, 1978.9), 4.8, 130, 700, "NVIDIA H200 Tensor Core GPU data sheet"),
    # FP4 has products of its own from Blackwell on. Modules in GB200 boards run at 1,200 W and are faster: another device.
    _gpu("b200", (2250, 4500, 9000), 8.0, 260, 1000, "NVIDIA Blackwell (HGX B200) data sheet"),
    _gpu("a100-40", (312, 624, 1248), 1.555, 100, 400, _AMPERE),
    _gpu("a100-80", (312, 624, 1248), 2.039, 100, 400, _AMPERE),
    # Four bits: twice the rate of eight, as the tensor cores of this generation can; not every data sheet says so.
    _gpu("l40s", (362.05, 733, 1466), 0.864, 160, 350, f"NVIDIA L40S data sheet; {_ADA}"),
    _gpu("l4", (121, 242.5, 485), 0.3, 80, 72, f"NVIDIA L4 Tensor Core GPU data sheet; {_ADA}"),
    # With 16-bit accumulation; with 32 bits, as language models are usually served, it is half as fast.
    _gpu("rtx-4090", (330.3, 660.6, 1321.2), 1.008, 130, 450, f"{_ADA}, appendix"),
    _gpu("mi300x", (1307.4, 2614.9), 5.3, 500, 750, "AMD Instinct MI300X data sheet"),
    # Not one product, but more than any socket had in 2026: 128 cores of 1,024 operations (bf16) a cycle in a matrix unit
    # at 3.9 GHz; 12 channels of 8.8 GT/s × 8 bytes; a cache of 1.2 GB; 500 W, and 100 W of memory.
    Device(
        "cpu",
        {16: 512e12, 8: 1024e12},
        845e9,
        1.5e9,
        600,
        "Intel AMX (1,024 bf16 operations a cycle) and Xeon 6980P, AMD EPYC 9684X data sheets, the best of each",
        LOOKED_UP,
    ),
)
DEVICES: Final[Mapping[str, Device]] = {device.name: device for device in _KNOWN}

_Positive = Annotated[float, Field(gt=0, le=1e24, allow_inf_nan=False, strict=True)]
_Text = Annotated[str, Field(min_length=1, max_length=300)]


class _Row(BaseModel):
    """One device in a file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    flops_16: _Positive
    flops_8: _Positive | None = None
    flops_4: _Positive | None = None
    bandwidth: _Positive
    on_chip: Annotated[float, Field(ge=0, le=1e24, allow_inf_nan=False, strict=True)]
    watts: _Positive
    idle_watts: _Positive | None = None
    source: _Text
    dated: Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")]

    def device(self, name: str) -> Device:
        """Return it under its name. CONFIGURATION if shorter numbers are slower, or idle power is above the cap."""
        rates = {16: self.flops_16, 8: self.flops_8, 4: self.flops_4}
        flops = {bits: rate for bits, rate in rates.items() if rate is not None}
        if list(flops.values()) != sorted(flops.values()):
            raise _wrong(f"{name}: shorter numbers cannot be slower than longer ones")
        if self.idle_watts is not None and self.idle_watts > self.watts:
            raise _wrong(f"{name}: its idle power is above its power cap")
        return Device(
            name,
            flops,
            self.bandwidth,
            self.on_chip,
            self.watts,
            self.source,
            self.dated,
            self.idle_watts,
        )


def devices_of(file: bytes) -> dict[str, Device]:
    """Return the known devices and those of a TOML file: one table for each, named like `[h100-sxm]`.

    Keys: `flops_16`, `flops_8`, `flops_4` (operations/s), `bandwidth` (bytes/s), `on_chip` (bytes), `watts`, `idle_watts`,
    `source`, `dated`; numbers are floats or integers. A device of the file replaces the known one of its name.
    CONFIGURATION for anything else, in words.
    """
    if len(file) > MAX_BYTES:
        raise _wrong(f"the file is longer than {MAX_BYTES} bytes")
    try:
        tables = tomllib.loads(file.decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise _wrong(f"the file is not TOML: {type(error).__name__}") from error
    if len(tables) > MAX_DEVICES:
        raise _wrong(f"the file has more than {MAX_DEVICES} devices")
    return {**DEVICES, **{name: _read(name, table) for name, table in tables.items()}}


def _read(name: str, table: object) -> Device:
    shown = printable(name, 60)
    try:
        return _Row.model_validate(table).device(shown)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(printable(str(part), 60) for part in first["loc"])
        raise _wrong(f"{shown}{'.' * bool(where)}{where}: {first['msg']}") from error


def _wrong(problem: str) -> CounterfoilError:
    return CounterfoilError(Code.CONFIGURATION, f"a file of devices is not usable: {problem}")
