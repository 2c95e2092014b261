"""Privileges as part of the schema: tables declare them, autogenerate compares them, migrations
grant.

A table's `info["access"]` maps short role names to privileges (see `base`). Importing this module
gives Alembic the operation `op.set_access(table, {role: privileges})` and a comparison that
proposes one wherever the database's grants to the service roles differ from the declaration.
Roles themselves are made by `counterfoil db init`; a migration only grants.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final, Self

from alembic.autogenerate import renderers
from alembic.autogenerate.api import AutogenContext
from alembic.operations import MigrateOperation, Operations
from alembic.operations.ops import UpgradeOps
from alembic.runtime.plugins import Plugin
from alembic.util import DispatchPriority, PriorityDispatchResult
from sqlalchemy import Connection, MetaData, Table, text

from audit_layer.storage.roles import ROLES, SERVICES
from shared.runtime.errors import Code, CounterfoilError

Access = Mapping[str, frozenset[str]]
"""Privileges by full role name; a role without any is omitted."""
PRIVILEGES: Final = ("select", "insert", "update", "delete", "truncate", "references", "trigger")
GRANTABLE: Final = frozenset({"select", "insert", "update", "delete"})
GRANTEES: Final = (*(role for short, role in ROLES.items() if short != "owner"), "PUBLIC")
"""Whose grants are compared; an operator's own roles (monitoring, backup) are the operator's."""
PLUGIN: Final = "counterfoil.grants"

_GRANTED = text(
    """
    SELECT class.relname, coalesce(role.rolname, 'PUBLIC'), lower(acl.privilege_type)
      FROM pg_class AS class
      JOIN pg_namespace AS namespace ON namespace.oid = class.relnamespace
     CROSS JOIN LATERAL aclexplode(class.relacl) AS acl
      LEFT JOIN pg_roles AS role ON role.oid = acl.grantee
     WHERE namespace.nspname = 'public' AND class.relkind IN ('r', 'p')
       AND coalesce(role.rolname, 'PUBLIC') = ANY(:grantees)
    """
)


def declared_access(table: Table) -> Access:
    """Return what a table declares, by full role name.

    Raises:
        CounterfoilError: CONFIGURATION for a table without a declaration, or with an unknown role
        or
            privilege in it: a table that was forgotten is a defect.
    """
    declaration = table.info.get("access")
    if declaration is None:
        raise CounterfoilError(Code.CONFIGURATION, f"Table {table.name} declares no access.")
    unknown = set(declaration) - set(SERVICES)
    wrong = {p for privileges in declaration.values() for p in privileges} - GRANTABLE
    if unknown or wrong:
        raise CounterfoilError(
            Code.CONFIGURATION, f"Table {table.name} declares {sorted(unknown | wrong)}."
        )
    return {
        ROLES[short]: frozenset(privileges)
        for short, privileges in declaration.items()
        if privileges
    }


def granted_access(connection: Connection) -> dict[str, Access]:
    """Return what the database grants on each table to our roles and to PUBLIC."""
    found: dict[str, dict[str, frozenset[str]]] = {}
    for table, role, privilege in connection.execute(_GRANTED, {"grantees": list(GRANTEES)}):
        roles = found.setdefault(table, {})
        roles[role] = roles.get(role, frozenset()) | {privilege}
    return dict(found)


def is_append_only(table: Table) -> bool:
    """Return whether no service may change or remove a row of this table."""
    return not any(
        privileges & {"update", "delete", "truncate"}
        for privileges in declared_access(table).values()
    )


@Operations.register_operation("set_access")
class SetAccess(MigrateOperation):
    """Make the grants on one table to our roles and to PUBLIC exactly these."""

    def __init__(self, table: str, access: Access, previous: Access | None = None) -> None:
        self.table = table
        self.access = dict(access)
        self.previous = dict(previous or {})

    @classmethod
    def set_access(
        cls,
        operations: Operations,
        table: str,
        access: Mapping[str, Iterable[str]],
    ) -> None:
        """Grant on `table` exactly `access` (privileges by full role name) to the service roles."""
        wanted = {role: frozenset(privileges) for role, privileges in access.items()}
        operations.invoke(cls(table, wanted))

    def reverse(self) -> Self:
        """Return the operation that restores the previous grants."""
        return type(self)(self.table, self.previous, self.access)

    def to_diff_tuple(self) -> tuple[Any, ...]:
        """Describe the change, for `counterfoil db check`."""
        return ("set_access", self.table, self.access, self.previous)


def statements(table: str, access: Access) -> list[str]:
    """Return the SQL that makes the grants on a table exactly `access`.

    A role that may insert may also use the sequences that the table's columns own.
    """
    names = ", ".join(name if name == "PUBLIC" else f'"{name}"' for name in GRANTEES)
    lines = [f'REVOKE ALL ON TABLE "{table}" FROM {names}']
    for role in GRANTEES:
        privileges = [name for name in PRIVILEGES if name in access.get(role, ())]
        grantee = role if role == "PUBLIC" else f'"{role}"'
        if privileges:
            lines.append(f'GRANT {", ".join(privileges).upper()} ON TABLE "{table}" TO {grantee}')
        if role not in {ROLES[service] for service in SERVICES}:
            continue
        verb, link = ("GRANT", "TO") if "insert" in privileges else ("REVOKE", "FROM")
        lines.append(_SEQUENCES.format(table=table, role=role, verb=verb, link=link))
    return lines


_SEQUENCES: Final = """DO $grants$
DECLARE owned regclass;
BEGIN
  FOR owned IN
    SELECT objid FROM pg_depend JOIN pg_class ON pg_class.oid = objid AND relkind = 'S'
     WHERE pg_depend.classid = 'pg_class'::regclass AND refobjid = '"{table}"'::regclass
  LOOP
    EXECUTE format('{verb} USAGE ON SEQUENCE %s {link} "{role}"', owned);
  END LOOP;
END $grants$"""


@Operations.implementation_for(SetAccess)
def _set_access(operations: Operations, operation: SetAccess) -> None:
    for statement in statements(operation.table, operation.access):
        operations.execute(statement)


@renderers.dispatch_for(SetAccess)
def _render(_context: AutogenContext, operation: SetAccess) -> str:
    access = {role: sorted(names) for role, names in sorted(operation.access.items())}
    return f"op.set_access({operation.table!r}, {access!r})"


def _compare(
    context: AutogenContext, upgrade: UpgradeOps, _schemas: object
) -> PriorityDispatchResult:
    """Propose a `set_access` for every table whose grants differ from its declaration."""
    metadata = context.metadata
    if context.connection is None or not isinstance(metadata, MetaData):
        return PriorityDispatchResult.CONTINUE
    present = granted_access(context.connection)
    for table in metadata.sorted_tables:
        wanted, found = declared_access(table), present.get(table.name, {})
        if dict(wanted) != dict(found):
            upgrade.ops.append(SetAccess(table.name, wanted, found))
    return PriorityDispatchResult.CONTINUE


def setup(plugin: Plugin) -> None:
    """Register the comparison with Alembic (called by its plugin machinery)."""
    plugin.add_autogenerate_comparator(_compare, "schema", priority=DispatchPriority.LAST)
