"""The rule that keeps a restored database from forking the log: it must hold what was signed last."""

from sqlalchemy import Engine

from audit_layer.log.checkpoint_table import CheckpointRow, History, newest
from audit_layer.log.proof_service import ProofService
from audit_layer.log.second_place import Kept, SecondPlace
from audit_layer.storage.engine import transaction
from shared.runtime.errors import Code, CounterfoilError
from shared.translog.checkpoint import Checkpoint


def check_history(history: History, second_place: SecondPlace) -> None:
    """Refuse (FORK) a database other than the one that signed the kept checkpoint.

    For appenders and publishers: nothing may be appended between `history` and this.
    """
    second_place.check_running()
    last = newest(history.connection)  # before the second place, which is written before it
    kept = second_place.read()
    if kept is not None:
        _check_holds(history, kept[0], "signed")
    _check_not_older(kept, last)


def check_served(engine: Engine, second_place: SecondPlace, proofs: ProofService) -> None:
    """Refuse (FORK) a database that is behind what was signed or published, or holds another history.

    For observers, alongside appenders and publishers: what must be in the database is read before
    it. UNAVAILABLE when the database or the second place does not answer.
    """
    second_place.check_running()
    kept = second_place.read()
    published = _published(proofs)
    with transaction(engine) as connection:
        history = History(connection)
        if kept is not None:
            _check_holds(history, kept[0], "signed")
        if published is not None:
            _check_holds(history, published, "published")
        last = newest(connection)
        _check_not_older(second_place.read(), last)


def _published(proofs: ProofService) -> Checkpoint | None:
    """Return the published checkpoint; None before the first one, or while its place does not answer."""
    try:
        return proofs.witnessed().checkpoint
    except CounterfoilError as error:
        if error.code not in {Code.NOT_WITNESSED, Code.UNAVAILABLE}:
            raise
        return None


def _check_holds(history: History, checkpoint: Checkpoint, done: str) -> None:
    if checkpoint.size > history.size:
        raise CounterfoilError(
            Code.FORK,
            f"the database ends at {history.size}, before the checkpoint {done} at {checkpoint.size}",
            remedy="The database was restored from an old backup: recover the newer one.",
        )
    if history.root_at(checkpoint.size) != checkpoint.root:
        raise CounterfoilError(
            Code.FORK, f"the database's history is not the one that was {done} at {checkpoint.size}"
        )


def _check_not_older(kept: Kept | None, last: CheckpointRow | None) -> None:
    """Refuse a second place that lacks what the database has signed."""
    if last is None or last.note is None:
        return
    if kept is None:
        raise CounterfoilError(
            Code.FORK,
            "the database holds signed checkpoints but the second place holds none",
            remedy="Restore the second place's file from where this log last ran.",
        )
    if last.size > kept[0].size:
        raise CounterfoilError(
            Code.FORK, "the second place is older than the database's last signed checkpoint"
        )
