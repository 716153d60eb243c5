"""Split against unified KV: what long idle neighbours cost a stream. Two engines of one model, measured in turns.

    python benchmarks/kv_layout.py MODEL.gguf [--tokens 3500] [--rounds 5]

Four slots, three of them filled with `--tokens` tokens each and left alone, then the fourth computes a prompt and
generates. Alone and beside the neighbours, in alternating rounds, for both layouts.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from hugind.supervisor.llama.binary import resolve_binary
from hugind.supervisor.llama.client import WorkerClient
from hugind.supervisor.llama.command import UnixEndpoint
from hugind.supervisor.process import ChildProcess

SLOTS = 4
PROMPT_TOKENS = 600
GENERATED = 64


async def main() -> None:
    """Print one JSON object: medians in tokens a second, and what the neighbours cost."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("model", type=Path)
    options.add_argument("--tokens", type=int, default=3500)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--binary", default=None)
    given = options.parse_args()
    layouts = {"split": ["--no-kv-unified"], "unified": ["--kv-unified"]}
    seen: dict[str, dict[str, list[float]]] = {name: {} for name in layouts}
    with tempfile.TemporaryDirectory(prefix="kv-") as folder:
        for name, flags in layouts.items():
            await _measure(seen[name], given, flags, Path(folder))
    medians = {name: {key: statistics.median(values) for key, values in one.items()} for name, one in seen.items()}
    print(json.dumps({name: _costs(one) for name, one in medians.items()}, indent=2))  # noqa: T201 - a script's output


async def _measure(seen: dict[str, list[float]], given: argparse.Namespace, flags: list[str], folder: Path) -> None:
    endpoint = UnixEndpoint(folder / f"{flags[0].strip('-')}.sock")
    context = SLOTS * (given.tokens + PROMPT_TOKENS + GENERATED + 64)
    binary = resolve_binary(given.binary)
    argv = [
        *binary.argv, "--model", str(given.model), "--host", str(endpoint.path), "--parallel", str(SLOTS),
        "--ctx-size", str(context), "--cache-ram", "0", "--no-cache-idle-slots", "--slot-prompt-similarity", "0",
        "--slot-save-path", str(folder), "--flash-attn", "on", *flags,
    ]  # fmt: skip
    process = await ChildProcess.spawn(argv, env={"LLAMA_API_KEY": "k"}, on_output=lambda _: None)
    client = WorkerClient(endpoint, "k")
    try:
        while not await client.is_healthy(5):  # noqa: ASYNC110 - nobody tells when it is
            await asyncio.sleep(0.1)
        for round_ in range(given.rounds):
            for slot in range(1, SLOTS):
                await client.erase(slot)
            _note(seen, "alone", await _turn(client, 0, round_))
            for slot in range(1, SLOTS):
                await _ask(client, slot, f"{slot}{round_} " + "w" * given.tokens, 1)
            _note(seen, "beside", await _turn(client, 0, round_ + 1000))
    finally:
        client.close()
        await process.close(5)


async def _turn(client: WorkerClient, slot: int, salt: int) -> dict[str, Any]:
    return await _ask(client, slot, f"{salt} " + "p" * PROMPT_TOKENS, GENERATED)


async def _ask(client: WorkerClient, slot: int, prompt: str, generate: int) -> dict[str, Any]:
    body = {"prompt": prompt, "n_predict": generate, "id_slot": slot, "cache_prompt": False, "temperature": 0}
    timings: dict[str, Any] = (await client.ask("/completion", body, 600))["timings"]
    return timings


def _note(seen: dict[str, list[float]], when: str, timings: dict[str, Any]) -> None:
    seen.setdefault(f"prefill_{when}", []).append(timings["prompt_per_second"])
    seen.setdefault(f"decode_{when}", []).append(timings["predicted_per_second"])


def _costs(one: dict[str, float]) -> dict[str, float]:
    lost = {f"{what}_lost": 1 - one[f"{what}_beside"] / one[f"{what}_alone"] for what in ("prefill", "decode")}
    return {key: round(value, 3) for key, value in (one | lost).items()}


if __name__ == "__main__":
    asyncio.run(main())
