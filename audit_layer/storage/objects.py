"""Functions and triggers as part of the schema, for rules that no constraint can state.

A room declares them beside its tables (`base.declare_function`, `base.declare_trigger`);
importing this module gives Alembic the operations `op.create_object` and `op.drop_object`, and a
comparison that proposes what is missing, changed or left over. Functions come before triggers,
both after the tables. The database keeps the hash of each definition as the object's comment;
that is how a change is seen.
"""

import hashlib
from typing import Any, Final

from alembic.autogenerate import renderers
from alembic.autogenerate.api import AutogenContext
from alembic.operations import MigrateOperation, Operations
from alembic.operations.ops import UpgradeOps
from alembic.runtime.plugins import Plugin
from alembic.util import DispatchPriority, PriorityDispatchResult
from sqlalchemy import Connection, MetaData, text

from audit_layer.storage.base import DatabaseObject, declared_objects

PLUGIN: Final = "counterfoil.objects"
MARK: Final = "counterfoil sha256 "

_FOUND = text(
    """
    SELECT proname, '', coalesce(obj_description(pg_proc.oid, 'pg_proc'), '')
      FROM pg_proc WHERE pronamespace = 'public'::regnamespace
    UNION ALL
    SELECT tgname, relname, coalesce(obj_description(pg_trigger.oid, 'pg_trigger'), '')
      FROM pg_trigger JOIN pg_class ON pg_class.oid = tgrelid
     WHERE relnamespace = 'public'::regnamespace AND NOT tgisinternal
    """
)


def mark_of(item: DatabaseObject) -> str:
    """Return the comment that says which definition an object was made from."""
    return MARK + hashlib.sha256(item.definition.encode()).hexdigest()


def found_objects(connection: Connection) -> dict[tuple[str, str | None], str]:
    """Return the comments of the functions and triggers in the schema, by (name, table)."""
    return {(name, table or None): comment for name, table, comment in connection.execute(_FOUND)}


@Operations.register_operation("create_object")
class CreateObject(MigrateOperation):
    """Create a function, or a trigger on a table."""

    def __init__(self, item: DatabaseObject) -> None:
        self.item = item

    @classmethod
    def create_object(
        cls, operations: Operations, name: str, definition: str, *, table: str | None = None
    ) -> None:
        """Execute the CREATE statement of a function (or, with `table`, of a trigger on it)."""
        operations.invoke(cls(DatabaseObject(name, definition, table)))

    def reverse(self) -> "DropObject":
        """Return the operation that drops it again."""
        return DropObject(self.item)

    def to_diff_tuple(self) -> tuple[Any, ...]:
        """Describe the change, for `counterfoil db check`."""
        return ("create_object", self.item.name)


@Operations.register_operation("drop_object")
class DropObject(MigrateOperation):
    """Drop a function, or a trigger on a table; the definition allows to bring it back."""

    def __init__(self, item: DatabaseObject) -> None:
        self.item = item

    @classmethod
    def drop_object(
        cls, operations: Operations, name: str, definition: str = "", *, table: str | None = None
    ) -> None:
        """Execute the DROP statement of a function (or, with `table`, of a trigger on it)."""
        operations.invoke(cls(DatabaseObject(name, definition, table)))

    def reverse(self) -> CreateObject:
        """Return the operation that creates it again."""
        return CreateObject(self.item)

    def to_diff_tuple(self) -> tuple[Any, ...]:
        """Describe the change, for `counterfoil db check`."""
        return ("drop_object", self.item.name)


@Operations.implementation_for(CreateObject)
def _create(operations: Operations, operation: CreateObject) -> None:
    item = operation.item
    operations.execute(text(_escaped(item.definition)))
    operations.execute(f"COMMENT ON {item.reference} IS '{mark_of(item)}'")


@Operations.implementation_for(DropObject)
def _drop(operations: Operations, operation: DropObject) -> None:
    operations.execute(f"DROP {operation.item.reference}")


def _escaped(definition: str) -> str:
    """Keep SQLAlchemy from reading `:name` in a definition as a parameter."""
    return definition.replace(":", r"\:")


@renderers.dispatch_for(CreateObject)
def _render_create(_context: AutogenContext, operation: CreateObject) -> str:
    return _render("create_object", operation.item)


@renderers.dispatch_for(DropObject)
def _render_drop(_context: AutogenContext, operation: DropObject) -> str:
    return _render("drop_object", operation.item)


def _render(name: str, item: DatabaseObject) -> str:
    """Return the call, one string per line of the definition: Alembic indents what it is given."""
    lines = [f"op.{name}(", f"    {item.name!r},"]
    if item.definition:
        lines += [f"    {line!r}" for line in item.definition.splitlines(keepends=True)]
        lines[-1] += ","
    if item.table is not None:
        lines.append(f"    table={item.table!r},")
    return "\n".join([*lines, ")"])


def _compare(
    context: AutogenContext, upgrade: UpgradeOps, _schemas: object
) -> PriorityDispatchResult:
    """Propose what brings the database's functions and triggers to what the rooms declare."""
    metadata = context.metadata
    if context.connection is None or not isinstance(metadata, MetaData):
        return PriorityDispatchResult.CONTINUE
    found = found_objects(context.connection)
    declared = declared_objects(metadata)
    wanted = {(item.name, item.table): item for item in declared}
    triggers_first = sorted(found, key=lambda key: key[1] is None)
    for name, table in triggers_first:
        item = wanted.get((name, table))
        if item is None or found[name, table] != mark_of(item):
            upgrade.ops.append(DropObject(DatabaseObject(name, "", table)))
    for item in declared:
        if found.get((item.name, item.table)) != mark_of(item):
            upgrade.ops.append(CreateObject(item))
    return PriorityDispatchResult.CONTINUE


def setup(plugin: Plugin) -> None:
    """Register the comparison with Alembic (called by its plugin machinery)."""
    plugin.add_autogenerate_comparator(_compare, "schema", priority=DispatchPriority.LAST)
