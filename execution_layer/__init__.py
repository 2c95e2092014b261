"""The execution layer: nodes that run models on sealed requests, and the client that sends them."""
