"""A model whose layers are spread over a chain of stages, with enough steps under way that no stage waits for the round trip."""
