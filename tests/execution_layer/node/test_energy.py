"""Energy is measured, estimated or unmeasured, and never invented: shares add up to the counter's growth."""

from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from execution_layer.node.energy import UNMEASURED, CountedEnergy, Unmetered, nvml_meter
from shared.statements.receipts import EnergyQuality


class FakeCounter:
    """A double of a device's energy counter, in millijoules."""

    def __init__(self):
        self.value = 10**9
        self.broken = False

    def __call__(self):
        if self.broken:
            raise OSError("the driver does not answer")
        return self.value


def test_a_request_that_was_alone_is_measured():
    counter = FakeCounter()
    meter = CountedEnergy(counter)
    share = meter.begin()
    counter.value += 500
    found = meter.end(share)
    assert (found.quality, found.millijoules) == (EnergyQuality.MEASURED, 500)


def test_requests_in_company_are_estimated_by_equal_shares():
    counter = FakeCounter()
    meter = CountedEnergy(counter)
    first = meter.begin()
    counter.value += 100
    second = meter.begin()
    counter.value += 60
    assert meter.end(first).millijoules == 130
    counter.value += 5
    found = meter.end(second)
    assert (found.quality, found.millijoules) == (EnergyQuality.ESTIMATED, 35)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(("begin", "end")), st.integers(0, 10**6)), max_size=40))
def test_all_shares_together_are_what_the_device_used_while_it_had_work(steps):
    counter = FakeCounter()
    meter = CountedEnergy(counter)
    running, used, given_out = [], 0, Fraction(0)
    for what, growth in steps:
        counter.value += growth
        used += growth if running else 0
        if what == "begin":
            running.append(meter.begin())
        elif running:
            share = running.pop(0)
            meter.end(share)
            given_out += share.millijoules
    for share in running:
        meter.end(share)
        given_out += share.millijoules
    assert given_out == used


def test_a_counter_that_fails_or_runs_backwards_leaves_requests_unmeasured():
    for harm in ("broken", "reset"):
        counter = FakeCounter()
        meter = CountedEnergy(counter)
        during = meter.begin()
        counter.broken, counter.value = harm == "broken", counter.value - 10**6
        assert meter.end(during) is UNMEASURED
        counter.broken = False
        after = meter.begin()
        counter.value += 7
        assert meter.end(after).millijoules == 7


def test_without_a_counter_nothing_is_said_and_unmeasured_is_not_zero():
    meter = Unmetered()
    assert meter.end(meter.begin()).millijoules is None

    class FakeNvml:
        """A double of pynvml on a machine without a GPU."""

        def nvmlInit(self):
            raise OSError("no driver")

    assert isinstance(nvml_meter(FakeNvml()), Unmetered)


def test_the_devices_own_counter_is_read_where_there_is_one():
    counter = FakeCounter()

    class FakeNvml:
        """A double of pynvml with one device."""

        def nvmlInit(self):
            pass

        def nvmlDeviceGetHandleByIndex(self, index):
            assert index == 0
            return "device"

        def nvmlDeviceGetTotalEnergyConsumption(self, device):
            assert device == "device"
            return counter()

    meter = nvml_meter(FakeNvml())
    share = meter.begin()
    counter.value += 42
    assert meter.end(share).millijoules == 42
