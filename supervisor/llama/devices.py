"""Does a llama-server compute on a GPU with memory of its own? Asked of itself: a machine may have one, and it not."""

from __future__ import annotations

import re
import subprocess
from functools import lru_cache

from hugind.supervisor.llama.binary import EngineBinary

_ASK_TIMEOUT_S = 30
_DEVICE = re.compile(r"^\s+(?:CUDA|ROCm|HIP|MUSA|SYCL|Vulkan)\d+:", re.MULTILINE)


def has_gpu(binary: EngineBinary) -> bool:
    """Whether `--list-devices` names one. The embedded engine has none. Blocks; known answers are remembered."""
    return binary.kind == "native" and "--list-devices" in binary.flags and _lists_gpu(binary.argv)


@lru_cache
def _lists_gpu(argv: tuple[str, ...]) -> bool:
    try:
        done = subprocess.run(
            [*argv, "--list-devices"], capture_output=True, text=True, timeout=_ASK_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0 and _DEVICE.search(done.stdout + done.stderr) is not None
