"""A custodian in a process of its own, which a fault point ends: `python -m … FOLDER` releases the world's case."""

import sys
from pathlib import Path

from tests.audit_layer.custodian import custody
from tests.shared.selection.world import World

with custody.custodian(Path(sys.argv[1])) as holder:
    holder.release(World().case().to_cbor())
