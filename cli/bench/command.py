"""`hugind bench`: placeholder until the measurement lands."""

from __future__ import annotations

import typer

bench_app = typer.Typer(no_args_is_help=True, help="Measure what the gateway costs.")


@bench_app.command()
def gateway() -> None:
    """Measure."""
