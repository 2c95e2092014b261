"""An OpenAI-compatible server on the application's own machine, on top of the client: what it answers was ordered and checked."""
