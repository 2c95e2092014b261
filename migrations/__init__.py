"""Alembic's environment and revisions for the audit layer's database."""
