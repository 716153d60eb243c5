"""Measurements as paired runs: the same load direct and through the gateway, in one process tree."""
