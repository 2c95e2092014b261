"""Postgres for the audit layer: declarative base, engines, embedded server, roles, migrations."""
