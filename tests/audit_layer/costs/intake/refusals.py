"""What a refused file says."""

import contextlib
from collections.abc import Callable
from typing import Any

import pytest

from audit_layer.costs.intake.read import preview, read_invoice
from shared.runtime.errors import Code, CounterfoilError


def refusal(source: Any, **options: Any) -> str:
    """Return what a file is refused with: by reading it, and that its dry run finds no invoice in it either."""
    told = malformed(lambda: read_invoice(source, **options))
    with contextlib.suppress(CounterfoilError):  # a file that cannot be read at all
        assert preview(source, **options).invoice is None
    return told


def malformed(call: Callable[[], object]) -> str:
    """Return the detail of a MALFORMED error, which is safe for a terminal."""
    with pytest.raises(CounterfoilError) as caught:
        call()
    assert caught.value.code is Code.MALFORMED
    assert caught.value.remedy
    assert caught.value.detail.replace("\n", "").isprintable()
    return caught.value.detail
