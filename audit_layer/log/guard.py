"""The rule that keeps a restored database from forking the log: it must hold what was signed last."""

from audit_layer.log.checkpoint_table import History, newest
from audit_layer.log.second_place import SecondPlace
from shared.runtime.errors import Code, CounterfoilError


def check_history(history: History, second_place: SecondPlace) -> None:
    """Refuse (FORK) a database that is not the one that signed the kept checkpoint."""
    second_place.check_running()
    kept = second_place.read()
    last = newest(history.connection)
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
    if checkpoint.size > history.size:
        raise CounterfoilError(
            Code.FORK,
            f"the database ends at {history.size}, before the checkpoint signed at {checkpoint.size}",
            remedy="The database was restored from an old backup: recover the newer one.",
        )
    if history.root_at(checkpoint.size) != checkpoint.root:
        raise CounterfoilError(
            Code.FORK, f"the database holds another history than was signed at {checkpoint.size}"
        )
    if last is not None and signed and last.size > checkpoint.size:
        raise CounterfoilError(
            Code.FORK, "the second place is older than the database's last signed checkpoint"
        )
