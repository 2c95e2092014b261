"""What the tables of the cost room have in common."""

from typing import Final

from sqlalchemy import Numeric

from audit_layer.storage.base import APPEND, access

KEPT_BY_WORKER: Final = access(worker=APPEND, server=APPEND)
Exact: Final = Numeric(48, 24)
"""An exact amount."""
