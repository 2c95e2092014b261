"""The engine: schedules sequences over one decoder. It adds scheduling to `shared.model` and nothing to its numbers."""
