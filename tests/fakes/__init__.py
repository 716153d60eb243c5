"""Stand-ins for what the tests do not run: an engine without a model."""
