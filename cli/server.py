"""`hugind server`: start, stop, restart, reload, status, queue, list, logs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hugind.cli import output, wording
from hugind.cli.completion import complete_model
from hugind.cli.start_options import AsChild, Binary, Check, Detach, Host, MaxResident, ModelTtl, Wanted, read_ttl
from hugind.cli.start_options import Port as ListenPort

if TYPE_CHECKING:
    from hugind.supervisor.run_folder import GatewayRecord
    from hugind.supervisor.settings import Environment

NOTHING_RUNS = 3

server_app = typer.Typer(no_args_is_help=True, help="Run the gateway and its engines.")

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Port = Annotated[int | None, typer.Option("--port", help="The gateway on this port, where several run.")]


@server_app.command()
def start(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL...",
            help="Configs by name, or files; models of the library.",
            autocompletion=complete_model,
            show_default=False,
        ),
    ] = None,
    autoload: Annotated[bool, typer.Option("--autoload", help="Start every config of the home.")] = False,
    host: Host = None,
    port: ListenPort = None,
    binary: Binary = None,
    max_resident_models: MaxResident = None,
    model_ttl: ModelTtl = None,
    detach: Detach = False,
    check: Check = False,
    is_child: AsChild = False,
) -> None:
    """Start the gateway with one or more configs, in the foreground unless --detach.

    All are loaded, as far as there is room; the others when somebody asks for them. Ctrl-C stops it: running turns get
    a few seconds to finish, then every llama-server is ended.

    For example:  hugind server start chat code embed --max-resident-models 2 --model-ttl 15m
    """
    wanted = Wanted(
        names=tuple(models or ()),
        autoload=autoload,
        host=host,
        port=port,
        binary=binary,
        max_resident=max_resident_models,
        model_ttl_s=read_ttl(model_ttl),
    )
    start_wanted(wanted, detach=detach, check=check, is_child=is_child)


def start_wanted(wanted: Wanted, *, detach: bool, check: bool, is_child: bool) -> None:
    """Start a gateway here or in the background, or only say whether it could be."""
    from hugind.cli import gateway_process
    from hugind.cli.greeting import greet

    environment = _environment()
    if check:
        gateway_process.check(wanted, environment)
    elif detach:
        greet(gateway_process.start_detached(wanted, environment))
    else:
        gateway_process.run_here(wanted, environment, is_child=is_child)


@server_app.command()
def stop(port: Port = None) -> None:
    """Stop the gateway: let running turns finish, end every llama-server. All of this home, unless --port."""
    from hugind.cli import gateway_process

    environment = _environment()
    running = _running(environment, port)
    if not running:
        output.say("nothing runs")
        gateway_process.sweep_leftovers(environment)
        return
    for record in running:
        gateway_process.stop_gateway(record, environment)
        output.say(f"stopped {record.url}")


@server_app.command()
def restart(
    config: Annotated[str | None, typer.Argument(help="Only this config's workers; the gateway stays.")] = None,
    port: Port = None,
) -> None:
    """Restart the gateway as it was started, or the workers of one config (also the way out of 'failed')."""
    from hugind.cli import gateway_process
    from hugind.cli.client import GatewayClient
    from hugind.cli.greeting import greet
    from hugind.supervisor.errors import HugindError

    environment = _environment()
    running = _running(environment, port)
    if config is not None:
        serving = [record for record in running if config in record.configs]
        if not serving:
            raise HugindError(f"no running gateway serves '{config}'", hint="hugind server status")
        for record in serving:
            GatewayClient(record).restart_engine(config)
            output.say(f"restarting {config} at {record.url}")
        return
    if not running:
        raise HugindError("nothing runs", hint="hugind server start CONFIG")
    for record in running:
        greet(gateway_process.restart_gateway(record, environment))


@server_app.command()
def reload(as_json: Json = False, port: Port = None) -> None:
    """Read the configs anew: only engines whose config changed are replaced, the rest keep serving. Or: SIGHUP.

    A config with a mistake, or whose files are missing, changes nothing. A replaced engine first finishes its running
    turns, within its drain_s; the command returns when the new ones are ready.
    """
    from hugind.cli import gateway_process
    from hugind.cli.client import GatewayClient
    from hugind.supervisor.errors import HugindError

    running = _running(_environment(), port)
    if not running:
        raise HugindError("nothing runs", hint="hugind server start CONFIG")
    differences, failed = {}, []
    for record in running:
        with output.progress(f"reloading {record.url}"):
            differences[record.url] = difference = GatewayClient(record).reload()
            failed += gateway_process.await_loaded(record, {*difference["added"], *difference["replaced"]})
    if as_json:
        output.print_json(differences)
    else:
        for url, difference in differences.items():
            rows = [(what, ", ".join(names) or "-") for what, names in difference.items()]
            output.print_table(url, ("", "engines"), rows)
    if failed:
        raise HugindError("; ".join(f"{engine['name']} cannot serve: {engine['reason']}" for engine in failed))


@server_app.command()
def status(as_json: Json = False, port: Port = None) -> None:
    """What runs: gateways, their engines and workers. Exit code 3 when nothing does."""
    from hugind.cli import gateway_process

    gateways = [gateway_process.describe(record) for record in _running(_environment(), port)]
    workers = [
        {"engine": engine["name"], "gateway": gateway["url"], **worker}
        for gateway in gateways
        for engine in gateway["engines"]
        for worker in engine["workers"]
    ]
    if as_json:
        output.print_json({"gateways": gateways, "workers": workers})
    elif not gateways:
        output.say("nothing runs")
    else:
        for gateway in gateways:
            if "error" in gateway:
                output.say(f"error: {gateway['error']}")
            title = f"{gateway['url']}  pid {gateway['pid']}  log {gateway['log']}"
            _print_engines(title, gateway["engines"])
            _print_workers([w for w in workers if w["gateway"] == gateway["url"] and w["state"] != "stopped"])
    if not gateways:
        raise typer.Exit(NOTHING_RUNS)


@server_app.command()
def queue(as_json: Json = False, port: Port = None) -> None:
    """Who is served and who waits: for what, since when, and who is next. Exit code 3 when nothing runs.

    slot: for a place in an engine; session: for an earlier turn of the same conversation; loading: for the model.
    """
    from hugind.cli.client import GatewayClient

    running = _running(_environment(), port)
    engines = [{"gateway": record.url, **engine} for record in running for engine in GatewayClient(record).queue()]
    if as_json:
        output.print_json({"engines": engines})
    elif not running:
        output.say("nothing runs")
    else:
        _print_queue(engines)
    if not running:
        raise typer.Exit(NOTHING_RUNS)


@server_app.command("list")
def list_configs(as_json: Json = False) -> None:
    """Every config, whether it is being served, and why not."""
    from hugind.cli import gateway_process

    rows = gateway_process.list_configs(_environment())
    if as_json:
        output.print_json(rows)
        return
    output.print_table(
        "configs",
        ("config", "state", "url", "workers", "memory", "expires", "reason"),
        [
            (row["config"], row["state"], row["url"], row["ready_workers"], *_place(row["residency"]), row["reason"])
            for row in rows
        ],
    )


@server_app.command()
def logs(
    config: Annotated[str | None, typer.Argument(help="Its workers' logs; without: the gateway's.")] = None,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on as it is written.")] = False,
    lines: Annotated[int, typer.Option("-n", "--lines", min=0, help="How many of the last lines.")] = 50,
) -> None:
    """Show what the gateway, or the llama-servers of a config, wrote."""
    from hugind.cli.logs import show_logs

    show_logs(_environment().home, config, lines=lines, follow=follow)


def _environment() -> Environment:
    from hugind.supervisor.settings import read_environment

    return read_environment()


def _running(environment: Environment, port: int | None) -> list[GatewayRecord]:
    from hugind.supervisor.run_folder import live_gateways

    return [record for record in live_gateways(environment.home) if port is None or record.port == port]


def _print_engines(title: str, engines: list[dict[str, Any]]) -> None:
    output.print_table(
        title,
        ("engine", "state", "requests", "memory", "expires", "reason"),
        [
            (e["name"], e["state"], e["residency"]["refs"], *_place(e["residency"]), wording.excerpt(e["reason"], 200))
            for e in engines
        ],
    )


def _place(residency: dict[str, Any] | None) -> tuple[str | None, str | None]:
    """How much memory an engine takes, and how long it stays there; nothing where it takes none."""
    if residency is None or not residency["is_loaded"]:
        return None, None
    taken, expires_at = residency["ram_bytes"] + residency["vram_bytes"], residency["expires_at"]
    left_s = None if expires_at is None else expires_at - time.time()
    return wording.size(taken) if taken else None, wording.expiry(residency["refs"], left_s)


def _print_workers(workers: list[dict[str, Any]]) -> None:
    if not workers:
        return
    output.print_table(
        "workers",
        ("engine", "worker", "state", "pid", "in flight", "slots", "restarts", "reason"),
        [
            (w["engine"], w["index"], w["state"], w["pid"], w["in_flight"], w["slots"], w["restarts"], w["reason"])
            for w in workers
        ],
    )


def _print_queue(engines: list[dict[str, Any]]) -> None:
    output.print_table(
        "engines",
        ("engine", "gateway", "scheduling", "free slots", "running", "waiting"),
        [
            (e["engine"], e["gateway"], e["scheduling"], e["free_slots"], len(e["running"]), len(e["waiting"]))
            for e in engines
        ],
    )
    output.print_table(
        "running",
        ("engine", "slot", "user", "since", "priority", "session", "request"),
        [
            (
                engine["engine"],
                f"{turn['worker']}/{turn['slot']}",
                wording.person(turn["user"], turn["end_user"]),
                wording.span(turn["since_s"]),
                turn["priority"],
                turn["session"],
                turn["request_id"],
            )
            for engine in engines
            for turn in engine["running"]
        ],
    )
    output.print_table(
        "waiting",
        ("engine", "position", "user", "for", "since", "priority", "session", "request"),
        [
            (
                engine["engine"],
                turn["position"],
                wording.person(turn["user"], turn["end_user"]),
                turn["for"],
                wording.span(turn["since_s"]),
                turn["priority"],
                turn["session"],
                turn["request_id"],
            )
            for engine in engines
            for turn in engine["waiting"]
        ],
    )
