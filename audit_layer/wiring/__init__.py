"""Where the audit layer's rooms are put together: one module for each kind of process, with its configuration."""
