"""Translation only: each client dialect to the chat request that the engine speaks, and back. Pure."""
