"""The file of how an operator serves is read strictly: what it does not say is a bound's default, what is unknown is refused."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit_layer.costs.plausibility import serving_file
from audit_layer.costs.plausibility.serving_file import MAX_BYTES, ServingFile
from shared.runtime.errors import Code, CounterfoilError
from shared.verification.devices import DEVICES
from shared.verification.physics import Model, Serving

ROOT = bytes(range(32))
DOCS = Path(__file__).parents[4] / "docs" / "plausibility.md"


def parsed(text: str | bytes) -> ServingFile:
    return ServingFile.parse(text.encode() if isinstance(text, str) else text, DEVICES)


def test_the_least_that_a_file_says_is_a_device():
    found = parsed('[serving]\ndevice = "h200"\n')
    assert found == ServingFile(Serving(DEVICES["h200"]), {})


def test_everything_that_a_file_can_say():
    """The example in the module's own words, and in the documentation."""
    for text in (
        (serving_file.__doc__ or "").partition("```toml\n")[2].partition("```")[0],
        DOCS.read_text(encoding="utf-8").partition("```toml\n[serving]")[2].partition("```")[0],
    ):
        found = parsed(text if text.startswith("[serving]") else f"[serving]{text}")
        assert found.serving == Serving(
            DEVICES["h100-sxm"], together=2, engines=4, largest_batch=8192, tokens_per_pass=3, weight_bits=8,
            in_flight=64, host_watts=900.0,
        )  # fmt: skip
        assert found.models == {"fox": Model(7_504_924_672, 525_336_576, 16, 46_000_000_000)}


def test_models_are_found_by_name_or_root():
    found = parsed(
        f'[serving]\ndevice = "cpu"\n[models.fox]\nactive_parameters = 2\n[models.{ROOT.hex()}]\nactive_parameters = 3\n'
    )
    assert found.by_root({"fox": bytes(32)}) == {bytes(32): Model(2), ROOT: Model(3)}
    with pytest.raises(CounterfoilError, match="no model named 'fox'"):
        found.by_root({})


GOOD = '[serving]\ndevice = "cpu"\n'
WRONG = {
    "": "serving",
    "[serving]\n": "device",
    '[serving]\ndevice = "abacus"\n': "abacus",
    f"{GOOD}layers = 3\n": "layers",
    f"{GOOD}together = 0\n": "together",
    f"{GOOD}together = true\n": "together",
    f"{GOOD}largest_batch = 1.5\n": "largest_batch",
    f"{GOOD}largest_batch = 18446744073709551616\n": "largest_batch",
    f"{GOOD}weight_bits = 65\n": "weight_bits",
    f"{GOOD}host_watts = nan\n": "host_watts",
    f"{GOOD}host_watts = inf\n": "host_watts",
    f"{GOOD}[models.fox]\n": "active_parameters",
    f"{GOOD}[models.fox]\nactive_parameters = 2\nall_parameters = 1\n": "mixture",
    f"{GOOD}[models.fox]\nactive_parameters = 2\nsize = 1\n": "size",
    f'{GOOD}[models."a\\u0007"]\nactive_parameters = 2\n': "U+0007",
    f"{GOOD}[other]\n": "other",
    "[serving": "TOML",
    "a = " + "[" * 5000: "TOML",
}


@pytest.mark.parametrize("text", WRONG, ids=lambda text: ascii(text[-30:]))
def test_what_is_no_such_file_is_refused_in_words(text: str):
    with pytest.raises(CounterfoilError) as caught:
        parsed(text).by_root({})
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert WRONG[text] in caught.value.detail
    assert caught.value.detail.isprintable()


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_are_read_or_refused(data: bytes):
    for text in (data, GOOD.encode() + data):
        assert refusal(text) in {None, Code.INVALID_ARGUMENT}


def refusal(text: bytes) -> Code | None:
    try:
        parsed(text)
    except CounterfoilError as error:
        return error.code
    return None


def test_a_file_is_not_read_beyond_its_limit():
    with pytest.raises(CounterfoilError, match="longer"):
        parsed(GOOD.encode() + b"#" * MAX_BYTES)
