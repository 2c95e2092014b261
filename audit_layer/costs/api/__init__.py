"""The cost room over HTTP, for the query API to mount."""
