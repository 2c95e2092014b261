"""What the benchmarks' tests share."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture
def _threads_kept() -> Iterator[None]:
    """Put back torch's thread count, which an engine sets for the whole process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
