"""What the driver says of the cards, and what is said where it says nothing."""

import ctypes

import pytest

from shared.runtime.cards import ARITHMETICS, DRIVER, MAJOR, Card, NoCardsError, cards

HOPPER = Card("NVIDIA H100 80GB HBM3", (9, 0), 80 << 30)
TURING = Card("Tesla T4", (7, 5), 15 << 30)


class Driver:
    """libcuda.so, as far as it is asked."""

    def __init__(self, *found: Card, **errors: int) -> None:
        self._found, self._errors = found, errors

    def __getattr__(self, name):
        if not name.startswith("cu"):
            raise AttributeError(name)
        if name in self._errors:
            return lambda *_: self._errors[name]
        return getattr(self, f"_{name}")

    def _cuInit(self, flags):
        assert flags == 0
        return 0

    def _cuDeviceGetCount(self, out):
        out._obj.value = len(self._found)
        return 0

    def _cuDeviceGet(self, out, index):
        out._obj.value = 10 + index
        return 0

    def _cuDeviceGetName(self, out, size, device):
        out.value = self._found[device - 10].name.encode()[: size - 1]
        return 0

    def _cuDeviceTotalMem_v2(self, out, device):
        assert isinstance(out._obj, ctypes.c_size_t)
        out._obj.value = self._found[device - 10].memory
        return 0

    def _cuDeviceGetAttribute(self, out, attribute, device):
        out._obj.value = self._found[device - 10].capability[attribute != MAJOR]
        return 0


def asked(driver: Driver) -> list[Card]:
    def opened(name):
        assert name == DRIVER
        return driver

    return cards(opened)


def test_cards_are_those_of_the_driver_in_its_order():
    assert asked(Driver(HOPPER, TURING)) == [HOPPER, TURING]


def test_a_cards_arithmetic_follows_from_its_compute_capability():
    assert (HOPPER.arithmetic, TURING.arithmetic) == ("fused-16", None)
    assert set(ARITHMETICS.values()) == {"fused-16", "fused-8"}


@pytest.mark.parametrize(
    ("driver", "why"),
    [
        (Driver(), "finds no card"),
        (Driver(cuInit=100), r"finds no card \(cuInit: error 100\)"),
        (Driver(HOPPER, cuDeviceGetName=3), r"\(cuDeviceGetName: error 3\)"),
    ],
)
def test_a_driver_without_a_card_says_so(driver, why):
    with pytest.raises(NoCardsError, match=why):
        asked(driver)


def test_a_machine_without_a_driver_says_so():
    def opened(_name):
        raise OSError

    with pytest.raises(NoCardsError, match="there is no NVIDIA driver"):
        cards(opened)
