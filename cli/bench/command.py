"""`hugind bench`: what the gateway costs on this machine, what its sessions save, and who waits how long."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from hugind.cli.bench.fairness import FairnessBenchResult
    from hugind.cli.bench.gateway import GatewayBenchResult
    from hugind.cli.bench.sessions import SessionBenchResult

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


@bench_app.command()
def sessions(
    model: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="A GGUF file.", show_default="80 M random weights, made here"),
    ] = None,
    users: Annotated[int, typer.Option(min=2, max=64, help="People who take turns.")] = 6,
    slots: Annotated[int, typer.Option(min=1, max=32, help="Slots that they share.")] = 2,
    tokens: Annotated[list[str] | None, typer.Option(help="Lengths of history.", show_default="4000")] = None,
    new: Annotated[list[str] | None, typer.Option(help="Tokens that a turn adds.", show_default="90,8")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Returns of each user, for each size.")] = 3,
    binary: Annotated[
        str | None,
        typer.Option("--binary", "--lib", help="A llama-server, a folder that holds one, a libllama, or 'embedded'."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """What a returning user waits for the first token, when more users than slots take turns.

    Beside it, in the same run: a user who never left the slot, the engine's own RAM cache without hugind, computing
    everything anew, and the first turns after a crash of the engine, a restart of the gateway and a reboot.

    Users are assumed to read for a moment: between a turn and the next lies the time that a save takes. Lists are
    written 1000,4000,16000 or given one by one. Everything happens in a temporary home. With 4,000 tokens it takes
    about five minutes on two cores without a GPU, with 16,000 an hour.
    """
    from hugind.cli import output
    from hugind.cli.bench.sessions import SessionBenchOptions, run_session_bench
    from hugind.supervisor.llama.binary import resolve_binary
    from hugind.supervisor.settings import load_settings, read_environment

    if users <= slots:
        raise typer.BadParameter("there must be more users than slots, or nobody ever leaves one")
    options = SessionBenchOptions(
        tokens=_numbers(tokens or ["4000"], "--tokens", at_least=300),  # shorter ones are not saved
        new=_numbers(new or ["90,8"], "--new", at_least=1),
        users=users,
        slots=slots,
        rounds=rounds,
        model=model.absolute() if model else None,
        binary=resolve_binary(binary, settings=load_settings(read_environment().home).lib),
    )
    result = run_session_bench(options, output.say)
    if as_json:
        output.print_json(result.as_json())
    else:
        _print_sessions(result)


@bench_app.command()
def fairness(
    model: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="A GGUF file.", show_default="40 M random weights, made here"),
    ] = None,
    heavy: Annotated[int, typer.Option(min=1, max=256, help="Turns that the heavy user always has in flight.")] = 32,
    light: Annotated[int, typer.Option(min=1, max=64, help="Users with one turn at a time.")] = 4,
    share: Annotated[
        float, typer.Option(min=0.01, max=1, help="Of the machine, what the light users ask for together.")
    ] = 0.1,
    slots: Annotated[int, typer.Option(min=1, max=32, help="Slots that all share.")] = 2,
    binary: Annotated[
        str | None,
        typer.Option("--binary", "--lib", help="A llama-server, a folder that holds one, a libllama, or 'embedded'."),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Few turns: shows that it works, measures little.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Who waits how long for a slot, and who gets how many tokens, when one user asks for everything.

    Two policies in one run, in alternating blocks. fifo: everybody shares one key, with `scheduling: batch`, so that
    turns start in the order of arrival, as at a server that knows no users. fair: a key for each user, with
    `scheduling: turns`.

    Light users have one turn at a time beside the heavy one, and read between turns, so that together they ask for
    `--share` of the machine; the same is measured without pauses, where most of what they wait is each other. Waits
    are the gateway's x-hugind-queue-ms, told in milliseconds and in turns: one is the median time that a turn takes
    alone on the idle engine, the same for both policies.

    Jain's index is of the tokens, prompts and answers, that four equally busy users with answers of 8 to 64 tokens get
    in the same time: 1 where all get the same.

    Everything happens in a temporary home; each policy loads the model once. It takes as long as 5,000 turns: about
    three minutes on two cores without a GPU.
    """
    from hugind.cli import output
    from hugind.cli.bench.fairness import FairnessBenchOptions, run_fairness_bench
    from hugind.supervisor.llama.binary import resolve_binary
    from hugind.supervisor.settings import load_settings, read_environment

    options = FairnessBenchOptions(
        light=light,
        heavy=heavy,
        slots=slots,
        share=share,
        model=model.absolute() if model else None,
        binary=resolve_binary(binary, settings=load_settings(read_environment().home).lib),
    )
    result = run_fairness_bench(options.quick() if quick else options, output.say)
    if result.figures.is_disturbed:
        output.say("the machine had something else to do: the figures say little, measure again when it is quiet")
    if as_json:
        output.print_json(result.as_json())
    else:
        _print_fairness(result)


def _numbers(words: list[str], option: str, *, at_least: int) -> tuple[int, ...]:
    try:
        numbers = tuple(int(number) for word in words for number in word.split(","))
    except ValueError:
        raise typer.BadParameter(f"{option} takes numbers, as 1000,4000") from None
    if min(numbers) < at_least:
        raise typer.BadParameter(f"{option} takes numbers from {at_least}")
    return numbers


def _print_sessions(result: SessionBenchResult) -> None:
    from hugind.cli import output

    for run in result.runs:
        columns = ("first token", "median ms", "p99 ms", "x best", "asked")
        output.print_table(str(run), columns, run.rows())


def _print_fairness(result: FairnessBenchResult) -> None:
    from hugind.cli import output

    policies: dict[str, str] = result.about["policies"]
    title = "\n".join(f"{name}: {words}" for name, words in policies.items())
    output.print_table(title, ("figure", *policies, "asked of fair"), result.figures.rows())


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
