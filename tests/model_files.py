"""GGUF files where tests want them."""

from __future__ import annotations

import shutil
from pathlib import Path

import gguf
import numpy as np

from tests.engines import DEMO_MODEL


def add_two_quants(home: Path) -> None:
    """`someone/tiny-GGUF`, a model in two sizes, into a library."""
    for quant in ("Q4_K_M", "Q8_0"):
        model = home / "someone" / "tiny-GGUF" / f"tiny-{quant}.gguf"
        model.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(DEMO_MODEL, model)


def write_split(folder: Path) -> tuple[Path, Path]:
    """A model in two parts, with a tensor of 128 parameters in each."""
    writer = gguf.GGUFWriter(folder / "m.gguf", "llama", split_max_tensors=1)
    for name in ("token_embd.weight", "output.weight"):
        writer.add_tensor(name, np.zeros((4, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    first, second = sorted(folder.glob("*.gguf"))
    return first, second
