"""`hugind doctor`: what this machine offers, which engine is used and why, what is wrong."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from hugind.cli import output


def doctor(
    binary: Annotated[str | None, typer.Option("--binary", "--lib", help="Ask about this llama-server.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Check this machine: the engine that would be used and why, the home, the configs. Exit code 1 on a problem."""
    from hugind.cli.checks import run_checks

    checks = run_checks(binary)
    if as_json:
        report: dict[str, Any] = {check.name: {"ok": check.is_good, "says": check.says} for check in checks}
        advice = [check.advice for check in checks if check.advice]
        output.print_json({"ok": all(check.is_good for check in checks), "checks": report, "advice": advice})
    else:
        rows = [("ok" if check.is_good else "PROBLEM", check.name, check.says) for check in checks]
        output.print_table("doctor", ("", "what", "found"), rows)
        for check in checks:
            if check.advice:
                output.say(f"advice: {check.advice}")
    if not all(check.is_good for check in checks):
        raise typer.Exit(1)
