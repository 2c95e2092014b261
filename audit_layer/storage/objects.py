"""Functions and triggers as part of the schema, for rules that no constraint can state.

A room declares them next to its tables (`base.declare_function`, `base.declare_trigger`);
importing this module gives Alembic the operations `op.create_object` and `op.drop_object`, and a
comparison that proposes what is missing, changed or left over. Functions come before triggers,
both after the tables. The database keeps the hash of each definition as the object's comment,
which is how a change is detected.
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
    SELECT proname, NULL, obj_description(pg_proc.oid, 'pg_proc'), pg_get_functiondef(pg_proc.oid)
      FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND prokind = 'f'
    UNION ALL
    SELECT tgname, relname, obj_description(pg_trigger.oid, 'pg_trigger'),
           pg_get_triggerdef(pg_trigger.oid)
      FROM pg_trigger JOIN pg_class ON pg_class.oid = tgrelid
     WHERE relnamespace = 'public'::regnamespace AND NOT tgisinternal
    """
)


def mark_of(item: DatabaseObject) -> str:
    """Return the comment that says which definition an object was made from."""
    return MARK + hashlib.sha256(item.definition.encode()).hexdigest()


def found_objects(connection: Connection) -> list[tuple[DatabaseObject, str]]:
    """Return the functions and triggers in the schema, each with its comment; triggers first.

    Definitions are as Postgres prints them, which is good enough to recreate an object.
    """
    found = [
        (DatabaseObject(name, definition.strip(), table), comment or "")
        for name, table, comment, definition in connection.execute(_FOUND)
    ]
    return sorted(found, key=lambda pair: (pair[0].table is None, pair[0].name))


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
        """Return the operation that drops it."""
        return DropObject(self.item)

    def to_diff_tuple(self) -> tuple[Any, ...]:
        """Describe the change, for `counterfoil db check`."""
        return ("create_object", self.item.name)


@Operations.register_operation("drop_object")
class DropObject(MigrateOperation):
    """Drop a function, or a trigger on a table; the definition allows it to be restored."""

    def __init__(self, item: DatabaseObject) -> None:
        self.item = item

    @classmethod
    def drop_object(cls, operations: Operations, name: str, *, table: str | None = None) -> None:
        """Execute the DROP statement of a function (or, with `table`, of a trigger on it)."""
        operations.invoke(cls(DatabaseObject(name, "", table)))

    def reverse(self) -> CreateObject:
        """Return the operation that recreates it."""
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
    """Keep SQLAlchemy from taking `:name` in a definition for a parameter."""
    return definition.replace(":", r"\:")


@renderers.dispatch_for(CreateObject)
def _render_create(_context: AutogenContext, operation: CreateObject) -> str:
    """Return the call, one string per line of the definition: Alembic indents what it is given."""
    lines = [f"    {line!r}" for line in operation.item.definition.splitlines(keepends=True)]
    return "\n".join(["op.create_object(", f"    {operation.item.name!r},", *lines]) + _ending(
        operation.item
    )


@renderers.dispatch_for(DropObject)
def _render_drop(_context: AutogenContext, operation: DropObject) -> str:
    return f"op.drop_object(\n    {operation.item.name!r}" + _ending(operation.item)


def _ending(item: DatabaseObject) -> str:
    return ",\n)" if item.table is None else f",\n    table={item.table!r},\n)"


def _compare(
    context: AutogenContext, upgrade: UpgradeOps, _schemas: object
) -> PriorityDispatchResult:
    """Propose what makes the database's functions and triggers match the rooms' declarations."""
    metadata = context.metadata
    if context.connection is None or not isinstance(metadata, MetaData):
        return PriorityDispatchResult.CONTINUE
    declared = {(item.name, item.table): item for item in declared_objects(metadata)}
    same = set()
    for found, comment in found_objects(context.connection):
        key = (found.name, found.table)
        if key in declared and comment == mark_of(declared[key]):
            same.add(key)
        elif key in declared or comment.startswith(MARK):  # what others made is theirs
            upgrade.ops.append(DropObject(found))
    upgrade.ops += [CreateObject(item) for key, item in declared.items() if key not in same]
    return PriorityDispatchResult.CONTINUE


def setup(plugin: Plugin) -> None:
    """Register the comparison with Alembic (called by its plugin machinery)."""
    plugin.add_autogenerate_comparator(_compare, "schema", priority=DispatchPriority.LAST)
