"""The rule that keeps a restored database from forking the log: it must hold what was signed last."""

from sqlalchemy import Connection

from audit_layer.log import checkpoint_table as table
from audit_layer.log.second_place import SecondPlace
from audit_layer.log.tile_table import read_state
from shared.runtime.errors import Code, CounterfoilError


def check_history(connection: Connection, second_place: SecondPlace) -> None:
    """Refuse (FORK) a database that is not the one that signed the kept checkpoint."""
    second_place.check_running()
    kept = second_place.read()
    last = table.newest(connection)
    signed = last is not None and last.note is not None
    if kept is None:
        if signed:
            raise CounterfoilError(
                Code.FORK,
                "the database holds signed checkpoints but the second place holds none",
                remedy="Bring the second place's file back from where this log last ran.",
            )
        return
    checkpoint, _ = kept
    size, _ = read_state(connection)
    if checkpoint.size > size:
        raise CounterfoilError(
            Code.FORK,
            f"the database ends at {size}, before the checkpoint signed at {checkpoint.size}",
            remedy="The database was restored from an old backup: recover the newer one.",
        )
    if table.database_root(connection, size, checkpoint.size) != checkpoint.root:
        raise CounterfoilError(
            Code.FORK, f"the database holds another history than was signed at {checkpoint.size}"
        )
    if last is not None and signed and last.size > checkpoint.size:
        raise CounterfoilError(
            Code.FORK, "the second place is older than the database's last signed checkpoint"
        )
