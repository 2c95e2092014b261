"""The log that others' code looks at."""

from tests.audit_layer.api.published import log

__all__ = ["log"]
