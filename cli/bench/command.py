"""`hugind bench`: what the gateway costs on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from hugind.cli.bench.gateway import GatewayBenchResult

bench_app = typer.Typer(no_args_is_help=True, help="Measure on this machine.")


@bench_app.callback()
def bench() -> None:
    """Measure on this machine."""


@bench_app.command()
def gateway(
    requests: Annotated[int, typer.Option(min=8, help="Requests for the time to first token.")] = 400,
    seconds: Annotated[float, typer.Option(min=0.1, help="Time of each throughput measurement.")] = 2.0,
    streams: Annotated[int, typer.Option(min=1, max=128, help="Paced streams side by side.")] = 64,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
    folder: Annotated[
        Path | None, typer.Option("--dir", help="Keep configs and logs in this folder.", show_default="a temporary one")
    ] = None,
    nginx: Annotated[bool, typer.Option(help="Compare with nginx, if there is one.")] = True,
) -> None:
    """What the gateway adds: latency, CPU and memory, beside asking the engine directly.

    The engine is a stand-in that computes nothing, so what is measured is the gateway. Takes about 45 seconds.
    """
    from hugind.cli import output
    from hugind.cli.bench.gateway import GatewayBenchOptions, run_gateway_bench

    options = GatewayBenchOptions(requests=requests, seconds=seconds, streams=streams, folder=folder, use_nginx=nginx)
    result = run_gateway_bench(options, output.say)
    if as_json:
        output.print_json(result.as_json())
    else:
        _print_table(result)


def _print_table(result: GatewayBenchResult) -> None:
    from hugind.cli import output

    names = {"direct": "direct", "direct_unix": "direct, UNIX socket", "gateway": "hugind", "nginx": "nginx"}
    rows = []
    for name, one in result.by_target.items():
        added = result.added_ttft_ms(name)
        rates = one.requests_per_s()
        rows.append(
            (
                *(names[name], f"{one.ttft.p50_ms:.2f} / {one.ttft.p99_ms:.2f}"),
                f"{added['p50']:+.2f} / {added['p99']:+.2f}" if name != "direct" else None,
                *rates.values(),
                *(f"{one.cpu_us_per_request:.0f}", f"{one.cpu_us_per_chunk:.1f}", f"{one.rss_mb:.0f}", one.failed),
            )
        )
    output.print_table(
        f"{result.machine['cpu'] or result.machine['system']}, {result.machine['cores']} cores",
        (
            *("target", "first token ms p50 / p99", "added"),
            *(f"req/s at {connections}" for connections in rates),
            *("CPU us/request", "CPU us/chunk", "RSS MB", "failed"),
        ),
        rows,
    )
