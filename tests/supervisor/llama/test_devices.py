"""What a llama-server says of its devices."""

from __future__ import annotations

from pathlib import Path

import pytest

from hugind.supervisor.llama.binary import EngineBinary
from hugind.supervisor.llama.devices import has_gpu

CUDA = "Available devices:\n  CUDA0: NVIDIA H100 80GB HBM3 (81079 MiB, 80550 MiB free)\n"
CPU = "Available devices:\n"


@pytest.mark.parametrize(("said", "expected"), [(CUDA, True), (CPU, False), ("  BLAS: OpenBLAS (0 MiB)\n", False)])
def test_its_own_word_counts(tmp_path: Path, said: str, expected: bool) -> None:
    """A machine may have a GPU, and the engine be built without."""
    assert expected == has_gpu(_binary(tmp_path, f"cat <<'END'\n{said}END\n"))


def test_one_that_cannot_tell_has_none(tmp_path: Path) -> None:
    """It ends otherwise, is not there, or knows no such flag; the embedded one is never asked."""
    assert not has_gpu(_binary(tmp_path, f"echo '{CUDA}'; exit 1\n"))
    assert not has_gpu(EngineBinary((str(tmp_path / "gone"),), "native", "", "", frozenset({"--list-devices"})))
    assert not has_gpu(EngineBinary(("true",), "native", "", "", frozenset()))
    assert not has_gpu(EngineBinary(("false",), "embedded", "", "", frozenset({"--list-devices"})))


def _binary(folder: Path, script: str) -> EngineBinary:
    path = folder / "llama-server"
    path.write_text(f"#!/bin/sh\n{script}")
    path.chmod(0o700)
    return EngineBinary((str(path),), "native", "", "", frozenset({"--list-devices"}))
