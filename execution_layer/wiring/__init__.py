"""The one place where the execution layer is put together."""
