"""Write the demo model that ships with hugind: `python -m tools.make_demo_model configs/demo/demo.gguf`."""

from __future__ import annotations

import argparse
from pathlib import Path

from tools.random_gguf import make_llama_gguf


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="the file to write")
    make_demo(parser.parse_args().out)


def make_demo(path: Path) -> Path:
    """About 1.4 MB of f16 noise with a context of 8192 tokens; the seed is one whose answers end after a few lines."""
    return make_llama_gguf(
        path, dim=128, layers=4, heads=4, kv_heads=2, ff=256, ctx=8192, seed=4, name="hugind demo", half=True, ends=True
    )


if __name__ == "__main__":
    main()
