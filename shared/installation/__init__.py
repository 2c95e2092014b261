"""The demonstration: every process of the platform under one supervisor, and the prompts it sends."""
