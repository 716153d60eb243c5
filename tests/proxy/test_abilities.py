"""What a model can do, as it is served."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hugind.proxy.abilities import abilities_of, file_of, template_takes
from hugind.supervisor.config import Config
from hugind.supervisor.engine import Engine
from hugind.supervisor.llama.binary import resolve_binary
from hugind.supervisor.paths import Home
from hugind.supervisor.run_folder import own_run_folder
from tests.proxy.serving import serving, standin_config
from tools.random_gguf import make_llama_gguf


def engine_of(folder: Path, **sections: Any) -> Engine:
    """One that does not run."""
    config: Config = standin_config(folder, **sections)
    home = Home(folder)
    home.create()
    with own_run_folder(home) as run_folder:
        return Engine("chat", config, resolve_binary(config.engine.binary), home, run_folder)


def test_what_a_model_can_do(tmp_path: Path) -> None:
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

    assert ("completion", "tools") == abilities_of(plain)
    assert ("completion", "thinking") == abilities_of(own)
    assert ("completion",) == abilities_of(named)
    assert ("completion", "vision") == abilities_of(seeing)


def test_a_model_that_cannot_be_read(tmp_path: Path) -> None:
    """Nothing is known of it; the engine will say what is wrong."""
    engine = engine_of(tmp_path)

    assert file_of(engine) is None
    assert abilities_of(engine) is None


async def test_the_engine_knows_best(tmp_path: Path) -> None:
    """Once it is loaded, whether it calls tools is by its own trial of the template."""
    model = {"model_path": str(make_llama_gguf(tmp_path / "plain.gguf"))}
    async with serving(tmp_path, {"chat": standin_config(tmp_path, model=model)}) as served:
        engine = served.engine()
        untold = template_takes(engine), abilities_of(engine)
        served.spawn().template_takes = frozenset({"supports_tools"})
        told = abilities_of(engine)

    assert (None, ("completion",)) == untold
    assert ("completion", "tools") == told
