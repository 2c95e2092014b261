"""Every table of the audit layer, in one metadata with which migrations are compared.

Each room's `models` module is found by name, so a new room cannot be forgotten. This module
is for migrations and tests; no room imports it.
"""

import pkgutil
from importlib import import_module
from importlib.util import find_spec

from sqlalchemy import MetaData

import audit_layer
from audit_layer.storage.base import Base


def model_modules() -> list[str]:
    """Return the names of the `models` modules of all rooms, sorted."""
    rooms = [room.name for room in pkgutil.iter_modules(audit_layer.__path__) if room.ispkg]
    names = [f"{audit_layer.__name__}.{room}.models" for room in sorted(rooms)]
    return [name for name in names if find_spec(name) is not None]


def metadata() -> MetaData:
    """Return the metadata with the tables, functions and triggers of every room."""
    for name in model_modules():
        import_module(name)
    return Base.metadata
