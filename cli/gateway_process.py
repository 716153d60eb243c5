"""The gateway as a process: run it here, start it detached, describe it, stop it."""

from __future__ import annotations

import logging
import logging.handlers
import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from hugind.cli import output
from hugind.cli.client import GatewayClient
from hugind.cli.greeting import is_on_demand, say_what_next
from hugind.cli.shelf import find_entry
from hugind.cli.start_options import Wanted, is_config_file
from hugind.proxy.start_options import StartOptions
from hugind.supervisor.config import load_config
from hugind.supervisor.errors import HugindError
from hugind.supervisor.paths import Home
from hugind.supervisor.run_folder import GatewayRecord, live_gateways, sweep
from hugind.supervisor.settings import Environment

LOG_BYTES = 10 * 1024 * 1024
LOG_BACKUPS = 3
POLL_S = 0.1
STOP_MARGIN_S = 20
"""Beyond the drain and stop times of its engines, a gateway that does not end is killed."""


def run_here(wanted: Wanted, environment: Environment, *, is_child: bool) -> None:
    """Serve in this process until stopped. Blocks.

    Raises:
        HugindError: as `start_gateway`.
    """
    from hugind.proxy.start import start_gateway  # the whole server: imported when it runs

    environment.home.create()
    options = _options(wanted, environment)
    handlers: list[logging.Handler] = [
        logging.handlers.RotatingFileHandler(options.log, maxBytes=LOG_BYTES, backupCount=LOG_BACKUPS)
    ]
    if not is_child:
        handlers.append(logging.StreamHandler(sys.stderr))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", handlers=handlers)
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # asks the hub, and tells of every request
    options.log.chmod(0o600)
    is_watched = wanted.is_on_demand and not is_child
    start_gateway(options, environment, say_what_next if is_watched else None)


def check(wanted: Wanted, environment: Environment) -> None:
    """Whether it could be started so, but for the port. Starts nothing.

    Raises:
        HugindError: as `start_gateway`.
    """
    from hugind.proxy.start import check_start

    check_start(_options(wanted, environment), environment)


def _options(wanted: Wanted, environment: Environment) -> StartOptions:
    return StartOptions(
        configs=wanted.names,
        host=wanted.host,
        port=wanted.port,
        binary=wanted.binary,
        argv=tuple(wanted.arguments()),
        log=environment.home.logs / "gateway.log",
        autoload=wanted.autoload,
        is_on_demand=wanted.is_on_demand,
        max_resident=wanted.max_resident,
        model_ttl_s=wanted.model_ttl_s,
    )


def start_detached(wanted: Wanted, environment: Environment) -> GatewayRecord:
    """Start a gateway that outlives this command; returns when what it loads at once is ready. Blocks.

    One that already serves the same configs at the same place is returned as it is.

    Raises:
        HugindError: it ended before it listened, or none of its engines can serve.
    """
    for record in live_gateways(environment.home):
        if _is_the_same(record, wanted, environment):
            output.say("it already runs; 'restart' applies changed settings")
            return record
    return _spawn(wanted.arguments(), environment, os.environ)


def restart_gateway(record: GatewayRecord, environment: Environment) -> GatewayRecord:
    """Stop a gateway and start it as it was started: its arguments, its environment with the key in it. Blocks.

    What would keep it from starting is found before it is stopped.

    Raises:
        HugindError: as `start_detached`; or it could not be started again, and goes on.
    """
    variables = psutil.Process(record.process.pid).environ()
    check = subprocess.run(
        [sys.executable, "-m", "hugind.cli.main", *record.argv, "--check"],
        env=variables,
        capture_output=True,
        text=True,
        check=False,
    )
    if check.returncode != 0:
        reason = check.stderr.strip().removeprefix("error: ")
        raise HugindError(f"it could not be started again, so it goes on: {reason}")
    stop_gateway(record, environment)
    return _spawn(record.argv, environment, variables)


def stop_gateway(record: GatewayRecord, environment: Environment) -> None:
    """End a gateway and everything it started. Blocks until it is gone."""
    patience_s = STOP_MARGIN_S + record.patience_s
    with output.progress(f"stopping {record.url} (pid {record.process.pid})"):
        _signal(record, signal.SIGTERM)
        deadline = time.monotonic() + patience_s
        while record.process.is_alive():
            if time.monotonic() > deadline:
                output.say(f"it did not stop within {patience_s:g} s and is killed")
                _signal(record, signal.SIGKILL)
                deadline = time.monotonic() + STOP_MARGIN_S
            time.sleep(POLL_S)
    sweep_leftovers(environment)


def _signal(record: GatewayRecord, number: signal.Signals) -> None:
    try:
        os.kill(record.process.pid, number)
    except ProcessLookupError:
        pass  # it ended by itself


def sweep_leftovers(environment: Environment) -> None:
    """End what gateways that died left behind. Blocks."""
    for pid in sweep(environment.home):
        output.say(f"ended a left-over worker, pid {pid}")


def describe(record: GatewayRecord) -> dict[str, Any]:
    """A gateway for programs; `engines` is empty where it does not answer, and `error` says why."""
    about: dict[str, Any] = {
        "url": record.url,
        "pid": record.process.pid,
        "started_at": record.process.started_at,
        "configs": list(record.configs),
        "log": record.log,
        "engines": [],
    }
    try:
        about["engines"] = GatewayClient(record).engines()
    except HugindError as error:
        about["error"] = error.message
    return about


def served_engines(home: Home) -> dict[str, tuple[str, dict[str, Any]]]:
    """Engines of this home's gateways by name, with the URL of theirs; without those of a gateway that is silent."""
    return {
        engine["name"]: (gateway["url"], engine)
        for gateway in map(describe, live_gateways(home))
        for engine in gateway["engines"]
    }


def list_configs(environment: Environment) -> list[dict[str, Any]]:
    """Every config of the home, and every one that is served from elsewhere, with its state."""
    served = served_engines(environment.home)
    names = sorted({*environment.home.config_names(), *served})
    return [_config_row(name, environment, *served.get(name, (None, None))) for name in names]


def _is_the_same(record: GatewayRecord, wanted: Wanted, environment: Environment) -> bool:
    """Whether a gateway that runs is what is to be started."""
    port = wanted.port
    if port is None:
        port = environment.ollama_port if wanted.is_on_demand else environment.port
    if port not in (None, 0, record.port) or is_on_demand(record) != wanted.is_on_demand:
        return False
    if wanted.is_on_demand:
        return True
    named = {_engine_name(name, environment.home) for name in wanted.names}
    return set(record.configs) == {*named, *(environment.home.config_names() if wanted.autoload else [])}


def _engine_name(given: str, home: Home) -> str:
    if is_config_file(given):
        return Path(given).stem
    try:
        return find_entry(home, given).name
    except HugindError:
        return given


def _config_row(name: str, environment: Environment, url: str | None, engine: dict[str, Any] | None) -> dict[str, Any]:
    row: dict[str, Any] = {
        "config": name,
        "url": url,
        "state": "stopped",
        "ready_workers": None,
        "residency": None,
        "reason": None,
    }
    path = environment.home.config(name)
    if path.exists():
        try:
            load_config(path)
        except HugindError as error:
            row |= {"state": "invalid", "reason": error.message}
    if engine is not None:
        stale = f"serves as started, but the file is wrong now: {row['reason']}" if row["reason"] else None
        ready = sum(worker["state"] == "ready" for worker in engine["workers"])
        row |= {
            "state": engine["state"],
            "reason": engine["reason"] or stale,
            "ready_workers": f"{ready}/{len(engine['workers'])}",
            "workers": engine["workers"],
            "residency": engine["residency"],
        }
    return row


def _spawn(arguments: Sequence[str], environment: Environment, variables: Mapping[str, str]) -> GatewayRecord:
    environment.home.create()
    words = environment.home.logs / "gateway.out"
    with words.open("w+b") as out:
        child = subprocess.Popen(
            [sys.executable, "-m", "hugind.cli.main", *arguments, "--as-child"],
            env=dict(variables),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
        try:
            record = _await_listening(child, environment)
            if record is None:
                said = words.read_text(encoding="utf-8", errors="replace").strip()
                raise HugindError(said.removeprefix("error: ") or f"the gateway ended with {child.returncode}")
            _await_ready(record)
        except BaseException:
            output.say("ending what was started")  # Ctrl-C, or no engine can serve: nothing half started stays
            child.terminate()
            child.wait()
            raise
    return record


def _await_listening(child: subprocess.Popen[bytes], environment: Environment) -> GatewayRecord | None:
    while child.poll() is None:
        for record in live_gateways(environment.home):
            if record.process.pid == child.pid:
                return record
        time.sleep(POLL_S)
    return None


def await_loaded(record: GatewayRecord, names: Collection[str]) -> list[dict[str, Any]]:
    """Wait until each of these engines is ready, failed or not to be loaded; those that failed. Blocks while they load.

    Raises:
        HugindError: the gateway ended meanwhile, or does not answer.
    """
    while record.process.is_alive():
        engines = [engine for engine in GatewayClient(record).engines() if engine["name"] in names]
        if all(map(_is_settled, engines)):
            return [engine for engine in engines if engine["state"] == "failed"]
        time.sleep(POLL_S)
    raise HugindError("the gateway ended while its models were loading", hint=f"see {record.log}")


def _is_settled(engine: dict[str, Any]) -> bool:
    """It is loaded, or will not be without being asked for."""
    return engine["state"] in ("ready", "failed") or (
        engine["state"] == "unloaded" and not engine["residency"]["is_expected"]
    )


def _await_ready(record: GatewayRecord) -> None:
    if not record.configs:
        return
    with output.progress("starting" if is_on_demand(record) else f"loading {', '.join(record.configs)}"):
        failed = await_loaded(record, record.configs)
    for engine in failed:
        output.say(f"{engine['name']} cannot serve: {engine['reason']}")
    if len(failed) == len(record.configs) and not is_on_demand(record):
        raise HugindError("no engine could be started", hint="hugind doctor, and the log: " + record.log)
