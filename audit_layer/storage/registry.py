"""Every table of the audit layer, in one metadata: what migrations are compared with.

Importing this module imports every room's `models`. It sits above the rooms and belongs to
migrations and tests; no room imports it.
"""

from importlib import import_module
from typing import Final

from sqlalchemy import MetaData

from audit_layer.storage.base import Base

MODELS: Final = (
    "audit_layer.log.models",
    "audit_layer.replay.models",
    "audit_layer.costs.models",
)


def metadata() -> MetaData:
    """Return the metadata with the tables of every room."""
    for module in MODELS:
        import_module(module)
    return Base.metadata
