"""Alembic runs this file for every command; the work is done in `audit_layer.storage.migrate`."""

from alembic import context

from audit_layer.storage.migrate import run_offline, run_online

if context.is_offline_mode():
    run_offline()
else:
    run_online(context.config)
