"""The table of devices is consistent, and a file adds to it or is refused in words."""

import re
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.runtime.errors import Code, CounterfoilError
from shared.verification.devices import DEVICES, MAX_BYTES, devices_of

ROW = """
["new-card"]
flops_16 = 1e14
flops_8 = 2e14
bandwidth = 1e12
on_chip = 50_000_000
watts = 300
idle_watts = 45.5
source = "the vendor's data sheet"
dated = "2026-11-28"
"""


@pytest.mark.parametrize("device", DEVICES.values(), ids=DEVICES)
def test_every_device_has_a_source_and_figures_of_the_right_size(device):
    assert device.source
    assert device.dated == "2026-11-28"
    assert device.idle_watts is None
    assert 1e14 < device.flops[16] < 1e16
    assert 2e11 < device.bandwidth < 1e13
    assert 5e7 < device.on_chip < 2e9
    assert 50 < device.watts <= 1000
    assert [device.peak(bits) for bits in (32, 16, 8, 4, 1)] == sorted(
        device.peak(bits) for bits in (32, 16, 8, 4, 1)
    )


def test_the_devices_that_are_promised_are_there():
    promised = "h100-sxm h100-pcie h200 b200 a100-40 a100-80 l40s l4 rtx-4090 mi300x cpu"
    assert set(DEVICES) == set(promised.split())


def test_numbers_without_a_figure_have_the_rate_of_shorter_ones():
    """Otherwise a bound would be higher than the device's own."""
    hopper = DEVICES["h100-sxm"]
    assert hopper.peak(32) == hopper.peak(16) == 989.4e12
    assert hopper.peak(12) == hopper.peak(8) == hopper.peak(4) == 1978.9e12
    assert DEVICES["b200"].peak(5) == 9000e12


def test_a_file_adds_a_device_and_may_replace_one():
    found = devices_of(ROW.encode())
    assert set(found) == {*DEVICES, "new-card"}
    new = found["new-card"]
    assert (new.flops, new.idle_watts) == ({16: 1e14, 8: 2e14}, 45.5)
    replaced = devices_of(ROW.replace("new-card", "h200").encode())
    assert replaced["h200"].watts == 300
    assert len(replaced) == len(DEVICES)
    assert devices_of(b"") == DEVICES


def test_the_documented_file_is_one():
    document = (Path(__file__).parents[3] / "docs" / "plausibility.md").read_text("utf-8")
    file, _serving = re.findall(r"```toml\n(.*?)```", document, re.DOTALL)
    assert devices_of(file.encode())["our-card"].idle_watts == 61.5
    assert all(f"`{name}`" in document for name in DEVICES)


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ("bandwidth = 1e12", "bandwidth = nan", "bandwidth"),
        ("bandwidth = 1e12", "bandwidth = inf", "bandwidth"),
        ("bandwidth = 1e12", "bandwidth = 0", "bandwidth"),
        ("bandwidth = 1e12", "bandwidth = -1e12", "bandwidth"),
        ("bandwidth = 1e12", 'bandwidth = "1e12"', "bandwidth"),
        ("bandwidth = 1e12", "bandwidth = true", "bandwidth"),
        ("bandwidth = 1e12", "bandwidth = [1e12]", "bandwidth"),
        ("bandwidth = 1e12", "", "bandwidth"),
        ("on_chip = 50_000_000", "on_chip = nan", "on_chip"),
        ("watts = 300", "watts = 1e99", "watts"),
        ("watts = 300", "watt = 300", "watt"),
        ("idle_watts = 45.5", "idle_watts = 300.5", "idle power"),
        ("idle_watts = 45.5", "idle_watts = -nan", "idle_watts"),
        ("flops_8 = 2e14", "flops_8 = 0.5e14", "slower"),
        ('source = "the vendor\'s data sheet"', 'source = ""', "source"),
        ("2026-11-28", "yesterday", "dated"),
        ('["new-card"]', "", "flops_16"),
        ('["new-card"]', "[[new]]", "new"),
    ],
)
def test_a_file_with_figures_that_cannot_be_is_refused(old, new, word):
    assert old in ROW
    with pytest.raises(CounterfoilError, match=word) as caught:
        devices_of(ROW.replace(old, new).encode())
    assert caught.value.code is Code.CONFIGURATION


@pytest.mark.parametrize(
    "file",
    [
        b"\xff",
        b"= 1",
        b"a = " + b"[" * 5000,
        b"#" * (MAX_BYTES + 1),
        b"".join(b"[d%d]\n" % i for i in range(1001)),
    ],
)
def test_what_is_no_such_file_is_refused(file):
    with pytest.raises(CounterfoilError) as caught:
        devices_of(file)
    assert caught.value.code is Code.CONFIGURATION


def test_names_from_a_file_cannot_steer_a_terminal():
    with pytest.raises(CounterfoilError) as caught:
        devices_of(b'["\\u001b[2J"]\nx = 1')
    assert "\x1b" not in str(caught.value)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(file):
    with suppress(CounterfoilError):
        assert devices_of(file).items() >= DEVICES.items()
