"""Every test of this folder runs with one numeric thread."""

from tests.shared.model.threads import one_thread

__all__ = ["one_thread"]
