"""The `hugind` command."""
