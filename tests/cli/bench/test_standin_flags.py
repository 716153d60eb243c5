"""The stand-in's command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from hugind.cli.bench.standin_flags import FlagError, help_text, parse_flags
from hugind.supervisor.config import Config
from hugind.supervisor.llama.command import UnixEndpoint, build_flags
from hugind.supervisor.paths import Home


def test_takes_what_hugind_sends(tmp_path: Path) -> None:
    """The flags of a config with everything set are understood."""
    config = Config.model_validate(
        {
            "model": {"model_path": "m.gguf", "mmproj_path": "p.gguf", "draft_path": "d.gguf", "lora_paths": ["l"]},
            "device": {"gpu_layers": "all", "mlock": True, "no_mmap": True, "threads": 2, "threads_batch": 2},
            "context": {"ctx_size": 1024, "batch_size": 256, "ubatch_size": 256, "cache_type_k": "q8_0"},
            "sampling": {"temp": 0.5, "top_k": 4, "top_p": 0.9, "min_p": 0.1},
            "chat": {"template": "chatml"},
            "server": {"max_slots": 3},
        }
    )
    known = {line.split()[0] for line in help_text().splitlines() if line.startswith("-")}
    home, endpoint = Home(tmp_path), UnixEndpoint(tmp_path / "a.sock")
    for build in (known, known - {"--load-mode"}):
        flags = build_flags("tiny", config, home, endpoint=endpoint, slot_folder=tmp_path, known=build)
        options = parse_flags(flags, {})

        assert (options.alias, options.slots, options.n_ctx) == ("tiny", 3, 1024)
        assert options.slot_folder == tmp_path


def test_keys_come_from_the_environment() -> None:
    """LLAMA_API_KEY is a key; a flag goes before it."""
    assert parse_flags(["-m", "m"], {"LLAMA_API_KEY": "a"}).api_keys == ("a",)
    assert parse_flags(["-m", "m", "--api-key", "b"], {"LLAMA_API_KEY": "a"}).api_keys == ("b",)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["-np", "two"], 'error while handling argument "--parallel": stoi'),
        (["--token-ms", "x"], 'error while handling argument "--token-ms": stof'),
        ([], "error: the stand-in needs --model"),
    ],
)
def test_refuses_values(flags: list[str], message: str) -> None:
    """Values that are none are refused."""
    with pytest.raises(FlagError) as caught:
        parse_flags([*(["-m", "m"] if flags else []), *flags], {})

    assert str(caught.value) == message
