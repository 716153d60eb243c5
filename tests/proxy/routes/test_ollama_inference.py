"""What Ollama's routes that generate or embed have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hugind.proxy.routes.ollama_inference import capabilities, header_of
from hugind.supervisor.config import Config
from hugind.supervisor.engine import Engine
from hugind.supervisor.llama.binary import resolve_binary
from hugind.supervisor.paths import Home
from hugind.supervisor.run_folder import own_run_folder
from tests.proxy.serving import standin_config
from tools.random_gguf import make_llama_gguf


def engine_of(folder: Path, **sections: Any) -> Engine:
    """One that does not run."""
    config: Config = standin_config(folder, **sections)
    home = Home(folder)
    home.create()
    with own_run_folder(home) as run_folder:
        return Engine("chat", config, resolve_binary(config.engine.binary), home, run_folder)


async def test_what_a_model_can_do(tmp_path: Path) -> None:
    """By its header, and by the template that its config gives it in place of the header's."""
    model = {"model_path": str(make_llama_gguf(tmp_path / "caller.gguf", calls=True))}
    template = tmp_path / "thinks.jinja"
    template.write_text("{% if enable_thinking %}<think>{% endif %}")
    plain, own, named, seeing = (
        engine_of(tmp_path, model=model),
        engine_of(tmp_path, model=model, chat={"template_file": str(template)}),
        engine_of(tmp_path, model=model, chat={"template": "chatml"}),
        engine_of(tmp_path, model={**model, "mmproj_path": "eye.gguf"}, chat={"template": "chatml"}),
    )

    assert ("completion", "tools") == await capabilities(plain)
    assert ("completion", "thinking") == await capabilities(own)
    assert ("completion",) == await capabilities(named)
    assert ("completion", "vision") == await capabilities(seeing)


async def test_a_model_that_cannot_be_read(tmp_path: Path) -> None:
    """Nothing is known of it; the engine will say what is wrong."""
    engine = engine_of(tmp_path)

    assert await header_of(engine) is None
    assert await capabilities(engine) is None
