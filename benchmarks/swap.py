"""What a swap costs beyond the engine's own load time: two models, room for one, one user who goes to and fro.

    python benchmarks/swap.py [--swaps 40] [--model A.gguf --model B.gguf]

A gateway of its own in a temporary home. Each request goes to the model that is not loaded, so that the other has to
leave, its session saved. `swap_ms` is what the gateway says that the request waited (`x-hugind-queue-ms`); `load_ms` is
the load alone, from the start of the process until it was ready (`load_s` of `/admin/v1/engines`), in the same request.
The first load of each model is left out: it tests once what a saved session of the model is worth.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import yaml

from hugind.supervisor.paths import Home
from hugind.supervisor.run_folder import GatewayRecord, live_gateways
from tools.random_gguf import make_llama_gguf

NAMES = ("one", "two")
KEY = "swap-key"
DEADLINE_S = 120
HISTORY = "Tell me about it, from the beginning and in every detail. " * 8


def main() -> None:
    """Print one JSON object: medians and worst cases in milliseconds, and how many sessions came back."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--swaps", type=int, default=40)
    options.add_argument("--model", type=Path, action="append", help="two of them; none: random weights")
    options.add_argument("--binary", default="embedded")
    given = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="swap-") as folder:
        models = given.model or [
            make_llama_gguf(Path(folder) / f"{name}.gguf", ctx=4096, seed=seed) for seed, name in enumerate(NAMES)
        ]
        home = Home(Path(folder) / "home")
        home.create()
        home.settings.write_text(yaml.safe_dump({"fleet": {"max_resident_models": 1}}))
        for name, model in zip(NAMES, models, strict=True):
            config = {
                "model": {"model_path": str(model.absolute())},
                "context": {"ctx_size": 4096},
                "sessions": {"min_tokens": 32},
                "engine": {"binary": given.binary},
            }
            home.config(name).write_text(yaml.safe_dump(config))
        print(json.dumps(_measure(home, given.swaps), indent=2))  # noqa: T201 - a script's output


def _measure(home: Home, swaps: int) -> dict[str, Any]:
    argv = [sys.executable, "-m", "hugind.cli.main", "server", "start", *NAMES, "--port", "0"]
    environment = {**os.environ, "HUGIND_HOME": str(home.root), "LLAMA_API_KEY": KEY}
    with (home.root / "said.txt").open("wb") as said:
        process = subprocess.Popen(argv, env=environment, stdout=said, stderr=said)
    try:
        record = _await_gateway(home, process)
        return _swap(record, swaps)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(DEADLINE_S)


def _swap(record: GatewayRecord, swaps: int) -> dict[str, Any]:
    seen: list[tuple[float, float]] = []
    returned = 0
    talks: dict[str, list[dict[str, str]]] = {name: [] for name in NAMES}
    headers = {"Authorization": f"Bearer {KEY}"}
    with httpx.Client(base_url=record.url, headers=headers, timeout=DEADLINE_S, trust_env=False) as client:
        for number in range(swaps + len(NAMES)):
            name = NAMES[number % len(NAMES)]
            messages = [*talks[name][-6:], {"role": "user", "content": HISTORY if number < len(NAMES) else "And then?"}]
            answer = client.post(
                "/v1/chat/completions", json={"model": name, "messages": messages, "max_tokens": 4, "user": "ada"}
            ).raise_for_status()
            if not talks[name]:
                talks[name] = [*messages, answer.json()["choices"][0]["message"]]
                continue
            returned += answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"] > 0
            engines = client.get("/admin/v1/engines", headers={"Authorization": f"Bearer {record.token}"}).json()
            load_s = next(engine["residency"]["load_s"] for engine in engines if engine["name"] == name)
            seen.append((float(answer.headers["x-hugind-queue-ms"]), load_s * 1000))
    beyond = [swap - load for swap, load in seen]
    return {
        "swaps": len(seen),
        "sessions_brought_back": returned,
        "swap_ms": _figures([swap for swap, _ in seen]),
        "load_ms": _figures([load for _, load in seen]),
        "beyond_ms": _figures(beyond),
    }


def _figures(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {
        "p50": round(statistics.median(ordered), 1),
        "p95": round(ordered[int(0.95 * (len(ordered) - 1))], 1),
        "max": round(ordered[-1], 1),
    }


def _await_gateway(home: Home, process: subprocess.Popen[bytes]) -> GatewayRecord:
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline and process.poll() is None:
        if found := live_gateways(home):
            return found[0]
        time.sleep(0.1)
    raise SystemExit((home.root / "said.txt").read_text())


if __name__ == "__main__":
    main()
