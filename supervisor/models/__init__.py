"""GGUF files: what they say of themselves."""
