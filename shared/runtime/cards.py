"""Which NVIDIA cards this machine has, asked of the driver itself: no torch, no other package."""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

DRIVER: Final = "libcuda.so.1"
MAJOR, MINOR = 75, 76
"""The driver's numbers of the attributes that make up the compute capability."""
ARITHMETICS: Final = {
    (8, 0): "fused-8",
    (8, 6): "fused-8",
    (8, 9): "fused-8",
    (9, 0): "fused-16",
    (10, 0): "fused-16",
    (10, 3): "fused-16",
    (12, 0): "fused-16",
    (12, 1): "fused-16",
}
"""Compute capability → the arithmetic of its matrix unit (protocol §7.2.4). Hopper's was compared bit by bit; the others' are taken
from the literature (MMA-Sim, arXiv 2511.10909), and the probe decides."""


@dataclass(frozen=True, slots=True)
class Card:
    """One card."""

    name: str
    capability: tuple[int, int]
    memory: int
    """Bytes."""

    @property
    def arithmetic(self) -> str | None:
        """The arithmetic of its matrix unit; None if it has none for bfloat16, or an unknown one."""
        return ARITHMETICS.get(self.capability)


class NoCardsError(Exception):
    """There are none, and the message says why."""


def cards(open_driver: Callable[[str], Any] = ctypes.CDLL) -> list[Card]:
    """Return the cards that CUDA may use, in its order; NoCardsError where there is no driver, or no card."""
    try:
        driver = open_driver(DRIVER)
    except OSError:
        raise NoCardsError("there is no NVIDIA driver") from None

    def ask(name: str, *arguments: Any) -> None:
        if code := getattr(driver, name)(*arguments):
            raise NoCardsError(f"the NVIDIA driver finds no card ({name}: error {code})")

    def number(name: str, *arguments: Any) -> int:
        found = ctypes.c_int()
        ask(name, ctypes.byref(found), *arguments)
        return found.value

    ask("cuInit", 0)
    found = []
    for index in range(number("cuDeviceGetCount")):
        device = number("cuDeviceGet", index)
        name, memory = ctypes.create_string_buffer(256), ctypes.c_size_t()
        ask("cuDeviceGetName", name, len(name), device)
        ask("cuDeviceTotalMem_v2", ctypes.byref(memory), device)
        major, minor = (number("cuDeviceGetAttribute", each, device) for each in (MAJOR, MINOR))
        found.append(Card(name.value.decode(errors="replace"), (major, minor), memory.value))
    if not found:
        raise NoCardsError("the NVIDIA driver finds no card")
    return found
