"""The compiled library: found, or missing with a word on what to do; it has the threads that were asked for."""

from collections.abc import Iterator

import pytest

from shared.model.native import library
from shared.model.native.library import VARIANTS, kernels
from shared.runtime.errors import Code, CounterfoilError


@pytest.fixture
def forgotten() -> Iterator[None]:
    kernels.cache_clear()
    yield
    kernels.cache_clear()


@pytest.mark.usefixtures("forgotten")
def test_an_installation_without_kernels_says_what_to_do(monkeypatch):
    monkeypatch.setattr(library, "find_spec", lambda _name: None)
    with pytest.raises(CounterfoilError) as caught:
        kernels()
    assert caught.value.code is Code.CONFIGURATION
    assert "C compiler" in (caught.value.remedy or "")


def test_the_processors_best_variant_has_a_name():
    assert 0 <= kernels().best < len(VARIANTS)


def test_threads_can_grow_and_shrink():
    assert [kernels().threads(wanted) for wanted in (3, 1, 2, 0, 1)] == [3, 1, 2, 1, 1]
