"""Data that ships with hugind: the example config, presets and the demo model. Read through importlib.resources."""
