"""From a config to flags."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest

from hugind.supervisor.config import RESERVED_FLAGS, Config
from hugind.supervisor.llama.binary import resolve_binary
from hugind.supervisor.llama.command import Endpoint, TcpEndpoint, UnixEndpoint, build_flags
from hugind.supervisor.models.family import Family
from hugind.supervisor.paths import Home
from tests.engines import engine_binary

_TCP = TcpEndpoint(9)
_HOME = Home(Path("/home/h"))


def _flags(
    known: Collection[str] = (),
    endpoint: Endpoint = _TCP,
    task: str = "chat",
    family: Family = Family.ATTENTION,
    **sections: Any,
) -> list[str]:
    model = {"model_path": "m.gguf", "task": task, **sections.pop("model", {})}
    config = Config.model_validate({"model": model, **sections})
    return build_flags("tiny", config, _HOME, endpoint=endpoint, slot_folder=Path("/slots"), known=known, family=family)


def _value(flags: list[str], flag: str) -> str | None:
    return flags[flags.index(flag) + 1] if flag in flags else None


@pytest.mark.parametrize("family", list(Family))
def test_memory_of_a_family(family: Family) -> None:
    """Few checkpoints where a model has any: they are in every slot file. A whole window only when asked for."""
    known = ["--ctx-checkpoints"]
    plain = _flags(known, family=family)
    whole = _flags(known, family=family, context={"swa_full": True})

    assert (None if family is Family.ATTENTION else "4") == _value(plain, "--ctx-checkpoints")
    assert "--swa-full" not in plain
    assert (family is Family.SWA) == ("--swa-full" in whole)
    assert "--ctx-checkpoints" not in _flags(family=family)


@pytest.mark.parametrize("task", ["chat", "embedding", "rerank"])
def test_safety_flags_are_always_there(task: str) -> None:
    """Slots are never shared, emptied or chosen behind our back, whatever the config says."""
    text = " ".join(_flags(task=task))

    for flags in (
        "--parallel 2 --ctx-size 8192",
        "--no-kv-unified",
        "--cache-ram 0",
        "--no-cache-idle-slots",
        "--slot-prompt-similarity 0",
        "--slots --metrics --slot-save-path /slots",
        "--flash-attn on --cache-type-k f16 --cache-type-v f16",
    ):
        assert f" {flags} " in f" {text} "


def test_what_we_set_cannot_be_set_again() -> None:
    """Every flag that fixes identity, reach or isolation is one that `extra_args` may not carry."""
    ours = {flag for flag in _flags(task="embedding") if flag.startswith("-")}
    open_to_all = {"--flash-attn", "--cache-type-k", "--cache-type-v", "--batch-size", "--ubatch-size"}

    assert ours - open_to_all <= RESERVED_FLAGS.keys()


def test_identity() -> None:
    """The model as a full path, and the config's name as the alias."""
    flags = _flags()

    assert flags[:4] == ["--model", "/home/h/m.gguf", "--alias", "tiny"]


def test_endpoint() -> None:
    """A socket, or a port on loopback and nowhere else."""
    assert _value(_flags(endpoint=UnixEndpoint(Path("/run/a.sock"))), "--host") == "/run/a.sock"
    assert "--port" not in _flags(endpoint=UnixEndpoint(Path("/run/a.sock")))
    assert _value(_flags(endpoint=TcpEndpoint(8081)), "--host") == "127.0.0.1"
    assert _value(_flags(endpoint=TcpEndpoint(8081)), "--port") == "8081"


def test_context_is_per_slot() -> None:
    """llama-server is told the context of all slots together."""
    flags = _flags(context={"ctx_size": 1000}, server={"max_slots": 7})

    assert (_value(flags, "--ctx-size"), _value(flags, "--parallel")) == ("7000", "7")


@pytest.mark.parametrize(("given", "flag"), [(True, "on"), (False, "off"), ("auto", "auto")])
def test_flash_attention(given: object, flag: str) -> None:
    """Each choice is said outright."""
    assert _value(_flags(context={"flash_attn": given}), "--flash-attn") == flag


@pytest.mark.parametrize(
    ("mlock", "no_mmap", "old", "new"),
    [
        (False, False, [], None),
        (True, False, ["--mlock"], "mmap+mlock"),
        (False, True, ["--no-mmap"], "none"),
        (True, True, ["--mlock", "--no-mmap"], "mlock"),
    ],
)
def test_load_mode(mlock: bool, no_mmap: bool, old: list[str], new: str | None) -> None:
    """Builds that know `--load-mode` get it; those before it the two flags."""
    device = {"mlock": mlock, "no_mmap": no_mmap}

    assert _value(_flags({"--load-mode"}, device=device), "--load-mode") == new
    assert [flag for flag in _flags({"--load-mode"}, device=device) if flag in ("--mlock", "--no-mmap")] == []
    assert [flag for flag in _flags(device=device) if flag in ("--mlock", "--no-mmap", "--load-mode")] == old


@pytest.mark.parametrize(("given", "flag"), [("auto", None), ("all", "999"), (0, "0"), (33, "33")])
def test_gpu_layers(given: object, flag: str | None) -> None:
    """A number is passed, `all` is more than any model has, and `auto` is left to llama-server."""
    assert _value(_flags(device={"gpu_layers": given}), "--n-gpu-layers") == flag


@pytest.mark.parametrize(
    ("context", "batch", "ubatch"),
    [
        ({"ctx_size": 512}, "512", "512"),
        ({"ctx_size": 100_000}, "8192", "8192"),
        ({"ctx_size": 512, "batch_size": 256}, "256", "256"),
        ({"ctx_size": 512, "batch_size": 256, "ubatch_size": 64}, "256", "64"),
    ],
)
def test_pooled_batch(context: dict[str, int], batch: str, ubatch: str) -> None:
    """An embedding input must fit one physical batch: it gets the context's size, within reason."""
    flags = _flags(task="embedding", context=context)

    assert (_value(flags, "--batch-size"), _value(flags, "--ubatch-size")) == (batch, ubatch)


def test_chat_batch() -> None:
    """A chat engine's batches are llama-server's own, unless the config says."""
    assert "--batch-size" not in _flags()
    assert _value(_flags(context={"batch_size": 64}), "--batch-size") == "64"
    assert "--ubatch-size" not in _flags(context={"batch_size": 64})


@pytest.mark.parametrize(("task", "flag"), [("embedding", "--embedding"), ("rerank", "--rerank")])
def test_task(task: str, flag: str) -> None:
    """The task is a flag of its own."""
    assert flag in _flags(task=task)
    assert flag not in _flags()


def test_sampling() -> None:
    """Defaults that are given are passed, zero included; others are not."""
    flags = _flags(sampling={"temp": 0, "top_k": 40})

    assert (_value(flags, "--temp"), _value(flags, "--top-k")) == ("0.0", "40")
    assert "--top-p" not in flags


def test_files() -> None:
    """Every file is a full path; adapters come one flag each."""
    flags = _flags(
        model={"mmproj_path": "p", "draft_path": "/d", "lora_paths": ["l1", "l2"]},
        chat={"template_file": "t.jinja", "template": "chatml"},
        device={"threads": 3, "threads_batch": 5},
    )

    assert _value(flags, "--mmproj") == "/home/h/p"
    assert _value(flags, "--model-draft") == "/d"
    assert _value(flags, "--chat-template-file") == "/home/h/t.jinja"
    assert _value(flags, "--chat-template") == "chatml"
    assert [flags[i + 1] for i, flag in enumerate(flags) if flag == "--lora"] == ["/home/h/l1", "/home/h/l2"]
    assert (_value(flags, "--threads"), _value(flags, "--threads-batch")) == ("3", "5")


def test_quiet_flags() -> None:
    """The web page is off under the name that the build knows, and nothing is fetched from the net."""
    assert "--no-ui" in _flags({"--no-ui", "--no-webui", "--offline"})
    assert "--no-webui" not in _flags({"--no-ui", "--no-webui"})
    assert "--no-webui" in _flags({"--no-webui"})
    assert "--offline" in _flags({"--offline"})
    assert "--offline" not in _flags()


def test_extra_args_come_last() -> None:
    """What a person adds is passed as it is, after ours, so that it wins where that is allowed."""
    assert _flags(engine={"extra_args": ["--seed", "7"]})[-2:] == ["--seed", "7"]


def test_the_engine_knows_every_flag() -> None:
    """Every flag that we may pass is in the help of the engine under test."""
    known = resolve_binary(engine_binary()).flags
    flags = _flags(
        known,
        task="embedding",
        model={"mmproj_path": "p", "draft_path": "d", "lora_paths": ["l"]},
        chat={"template_file": "t", "template": "chatml"},
        device={"threads": 1, "threads_batch": 1, "gpu_layers": 1, "mlock": True},
        sampling={"temp": 1, "top_k": 1, "top_p": 1, "min_p": 1},
    )

    assert {flag for flag in flags if flag.startswith("--")} <= known
