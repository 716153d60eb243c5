"""Parse, take a turn, render: one file per group of routes."""
