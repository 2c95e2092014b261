"""Energy: NVIDIA's own counter if a GPU runs the model; otherwise it is unmeasured, not zero.
The counter covers the whole device. Between two readings its growth is shared equally among the requests
in flight, so all requests' shares add up to what the device used while it had work. A share is
*measured* if the request was alone for its whole life, otherwise *estimated*.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol

from shared.statements.receipts import EnergyQuality

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Energy:
    """One request's energy, in millijoules; None exactly when it is unmeasured."""

    quality: EnergyQuality
    millijoules: int | None


UNMEASURED = Energy(EnergyQuality.UNMEASURED, None)


@dataclass(slots=True)
class Share:
    """The running account of one request."""

    millijoules: Fraction = Fraction(0)
    alone: bool = True
    known: bool = True


class EnergyMeter(Protocol):
    """Attributes energy to requests. Belongs to one event loop."""

    def begin(self) -> Share:
        """Open an account: the request is in flight from now on."""

    def end(self, share: Share) -> Energy:
        """Close it and return the request's energy."""


class Unmetered:
    """No counter: everything is unmeasured."""

    def begin(self) -> Share:
        """Open an account to which nothing is booked."""
        return Share()

    def end(self, share: Share) -> Energy:  # noqa: ARG002  # part of the EnergyMeter interface
        """Return that nothing was measured."""
        return UNMEASURED


class CountedEnergy:
    """Shares a growing counter (millijoules) among the requests in flight."""

    def __init__(self, read: Callable[[], int]) -> None:
        self._read = read
        self._last = 0
        self._open: list[Share] = []

    def begin(self) -> Share:
        """Open an account."""
        self._book()
        share = Share()
        self._open.append(share)
        if len(self._open) > 1:
            for other in self._open:
                other.alone = False
        return share

    def end(self, share: Share) -> Energy:
        """Close an account."""
        self._book()
        self._open = [other for other in self._open if other is not share]
        if not share.known:
            return UNMEASURED
        quality = EnergyQuality.MEASURED if share.alone else EnergyQuality.ESTIMATED
        return Energy(quality, int(share.millijoules))

    def _book(self) -> None:
        """Share the counter's growth since the last reading among the open accounts."""
        try:
            now = self._read()
        except Exception:  # noqa: BLE001  # the library has an error class of its own for each driver error
            _log.exception("the energy counter cannot be read")
            for share in self._open:
                share.known = False
            return
        grown, self._last = now - self._last, now
        for share in self._open:
            if grown < 0:  # the driver was reloaded
                share.known = False
            share.millijoules += Fraction(max(0, grown), len(self._open))


def nvml_meter(nvml: Any = None) -> EnergyMeter:
    """Return a meter on the first GPU's counter or, with a warning, one that measures nothing.
    `nvml` is the module `pynvml` (package nvidia-ml-py) unless a test passes another.
    """
    try:
        if nvml is None:
            import pynvml as nvml  # type: ignore[no-redef]  # noqa: PLC0415  # an extra
        nvml.nvmlInit()
        device = nvml.nvmlDeviceGetHandleByIndex(0)
        meter = CountedEnergy(lambda: int(nvml.nvmlDeviceGetTotalEnergyConsumption(device)))
        nvml.nvmlDeviceGetTotalEnergyConsumption(device)
    except Exception as error:  # noqa: BLE001  # NVML's errors have no base class that can be imported without it
        _log.warning("energy is unmeasured: no usable NVIDIA counter (%s)", type(error).__name__)
        return Unmetered()
    return meter
