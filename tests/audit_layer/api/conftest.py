"""The audit server of `tests.audit_layer.served`, for the tests of this folder."""

from tests.audit_layer.served import world

__all__ = ["world"]
