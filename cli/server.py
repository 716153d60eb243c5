"""`hugind server`: start, stop, restart, reload, status, queue, list, logs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from hugind.cli import output

if TYPE_CHECKING:
    from hugind.supervisor.run_folder import GatewayRecord
    from hugind.supervisor.settings import Environment

NOTHING_RUNS = 3

server_app = typer.Typer(no_args_is_help=True, help="Run the gateway and its engines.")

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Port = Annotated[int | None, typer.Option("--port", help="The gateway on this port, where several run.")]


@server_app.command()
def start(
    configs: Annotated[list[str] | None, typer.Argument(help="Configs by name, or files.", show_default=False)] = None,
    autoload: Annotated[bool, typer.Option("--autoload", help="Start every config of the home.")] = False,
    host: Annotated[str | None, typer.Option(help="Address to listen on; beyond loopback a key is required.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one.", min=0, max=65535)] = None,
    binary: Annotated[
        str | None,
        typer.Option(
            "--binary", "--lib", help="A llama-server, a folder that holds one, a libllama beside one, or 'embedded'."
        ),
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Return when it is ready and leave it running.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Only say whether it could start.")] = False,
    is_child: Annotated[bool, typer.Option("--as-child", hidden=True)] = False,
) -> None:
    """Start the gateway with one or more configs, in the foreground unless --detach.

    Ctrl-C stops it: running turns get a few seconds to finish, then every llama-server is ended.
    """
    from hugind.cli import gateway_process

    environment = _environment()
    names = configs or []
    arguments = gateway_process.start_arguments(names, autoload=autoload, host=host, port=port, binary=binary)
    if detach and not check:
        every = {*names, *(environment.home.config_names() if autoload else [])}
        _print_running(gateway_process.start_detached(every, arguments, environment, port=port))
        return
    from hugind.proxy.start import StartOptions, check_start  # the whole server stack

    log = environment.home.logs / "gateway.log"
    options = StartOptions(tuple(names), host, port, binary, tuple(arguments), log, autoload)
    if check:
        check_start(options, environment)
    else:
        gateway_process.run_here(options, environment, is_child=is_child)


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
        _print_running(gateway_process.restart_gateway(record, environment))


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
            _print_workers(title, [w for w in workers if w["gateway"] == gateway["url"]])
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
        ("config", "state", "url", "workers", "reason"),
        [(row["config"], row["state"], row["url"], row["ready_workers"], row["reason"]) for row in rows],
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


def _print_running(record: GatewayRecord) -> None:
    url = record.url
    output.say(f"hugind runs at {url} (pid {record.process.pid}), serving {', '.join(record.configs)}")
    output.say(f"  chat      {url}/v1/chat/completions")
    output.say(f"  models    {url}/v1/models")
    output.say(f"  health    {url}/health")
    output.say(f"  log       {record.log}")


def _print_workers(title: str, workers: list[dict[str, Any]]) -> None:
    output.print_table(
        title,
        ("engine", "worker", "state", "pid", "in flight", "slots", "restarts", "reason"),
        [
            (w["engine"], w["index"], w["state"], w["pid"], w["in_flight"], w["slots"], w["restarts"], w["reason"])
            for w in workers
        ],
    )


def _print_queue(engines: list[dict[str, Any]]) -> None:
    from hugind.cli import wording

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
