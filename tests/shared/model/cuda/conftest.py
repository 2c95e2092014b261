"""Every test here runs the kernels in the interpreter, as a card of `fused-16` would."""

from collections.abc import Iterator

import pytest

from tests.shared.model.cuda.interpreter import patched


@pytest.fixture(autouse=True)
def interpreted() -> Iterator[None]:
    with patched():
        yield
