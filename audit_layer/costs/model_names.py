"""Names of models, so that nobody types a root. In the caller's transaction; the last row of a name applies."""

from collections.abc import Mapping

from sqlalchemy import select
from sqlalchemy.orm import Session

from audit_layer.costs.models import ModelNameRow
from shared.codec.ids import check_label
from shared.codec.moment import now_ms


def name_model(db: Session, name: str, root: bytes, *, by: str) -> None:
    """Give a model a name; a name that another model had is its own from now on."""
    label = check_label(name, "a model's name")
    if roots_of(db).get(label) != root:
        db.add(ModelNameRow(name=label, model_root=root, recorded_at=now_ms(), recorded_by=by))
        db.flush()


def roots_of(db: Session) -> Mapping[str, bytes]:
    """Return the root of every name."""
    rows = db.execute(select(ModelNameRow.name, ModelNameRow.model_root).order_by(ModelNameRow.id))
    return {name: bytes(root) for name, root in rows}


def names_of(db: Session) -> Mapping[bytes, str]:
    """Return the latest name of every model that has one."""
    return {root: name for name, root in roots_of(db).items()}
