"""Protocol buffers: the .proto sources and the code generated from them (imported by wire modules only)."""
