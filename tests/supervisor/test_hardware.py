"""What a machine has is told by its libraries and its cgroup, and a broken driver is no GPU."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from hugind.supervisor.hardware import Gpu, Nvml, free_memory, probe

GIB = 1 << 30


class FakeNvml:
    """NVIDIA's library with some GPUs, each of which may refuse to answer."""

    class NVMLError(Exception):
        """As theirs."""

    def __init__(self, *gpus: Gpu | None, has_driver: bool = True, counts: bool = True) -> None:
        self.gpus = gpus
        self.has_driver = has_driver
        self.counts = counts
        self.is_open = False

    def nvmlInit(self) -> None:  # noqa: N802
        if not self.has_driver:
            raise self.NVMLError("Driver Not Loaded")
        self.is_open = True

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.is_open = False

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        if not self.counts:
            raise self.NVMLError("Unknown Error")
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Any:  # noqa: N802
        if self.gpus[index] is None:
            raise self.NVMLError("GPU is lost")
        return self.gpus[index]

    def nvmlDeviceGetName(self, handle: Any) -> str | bytes:  # noqa: N802
        return bytes(handle.name, "utf-8") if handle.total_bytes < 20 * GIB else str(handle.name)

    def nvmlDeviceGetMemoryInfo(self, handle: Any) -> Any:  # noqa: N802
        return SimpleNamespace(total=handle.total_bytes, free=handle.free_bytes, used=0)


NONE = FakeNvml(has_driver=False)


def write(root: Path, files: dict[str, str]) -> Path:
    """A `proc` and a `sys` of our own."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_gpus(tmp_path: Path) -> None:
    """All that answer are listed, and the library is left closed."""
    first, second = Gpu("A100", 40 * GIB, 30 * GIB), Gpu("T4", 16 * GIB, 15 * GIB)
    nvml = FakeNvml(first, None, second)

    found = probe(nvml=nvml, root=tmp_path)
    assert ("cuda", (first, second)) == (found.device, found.gpus)
    assert 45 * GIB == free_memory(nvml=nvml, root=tmp_path)[1]
    assert not nvml.is_open


@pytest.mark.parametrize("nvml", [NONE, FakeNvml(), FakeNvml(Gpu("T4", 1, 1), counts=False), FakeNvml(None)])
def test_no_gpu(nvml: Nvml, tmp_path: Path) -> None:
    """No driver, no GPU or none that answers: no failure."""
    found = probe(nvml=nvml, root=tmp_path)
    assert () == found.gpus
    assert "cuda" != found.device
    assert 0 == free_memory(nvml=nvml, root=tmp_path)[1]


def test_this_machine() -> None:
    """Whatever runs the tests has memory and cores."""
    found = probe()
    assert 0 < found.ram_available_bytes <= found.ram_total_bytes <= psutil.virtual_memory().total
    assert found.cores >= 1


def test_cgroup_2(tmp_path: Path) -> None:
    """The tightest limit of our group and those above it; file pages that can be given up are free."""
    root = write(
        tmp_path,
        {
            "proc/self/cgroup": "0::/outer/inner\n",
            "sys/fs/cgroup/outer/memory.max": f"{1 << 26}\n",
            "sys/fs/cgroup/outer/memory.current": f"{1 << 25}\n",
            "sys/fs/cgroup/outer/memory.stat": f"anon 5\ninactive_file {1 << 20}\nactive_file {1 << 20}\n",
            "sys/fs/cgroup/outer/cpu.max": "100000 100000\n",
            "sys/fs/cgroup/outer/inner/memory.max": "max\n",
            "sys/fs/cgroup/outer/inner/cpu.max": "max 100000\n",
        },
    )

    found = probe(nvml=NONE, root=root)
    assert 1 << 26 == found.ram_total_bytes
    assert (1 << 25) + (1 << 21) == found.ram_available_bytes
    assert 1 == found.cores


def test_cgroup_1(tmp_path: Path) -> None:
    """As version 2, where each controller has a tree; a limit beyond any memory is none."""
    group = "sys/fs/cgroup"
    root = write(
        tmp_path,
        {
            "proc/self/cgroup": "5:memory:/docker/x\n4:cpu,cpuacct:/\n",
            f"{group}/memory/memory.limit_in_bytes": f"{(1 << 63) - 4096}\n",
            f"{group}/memory/docker/x/memory.limit_in_bytes": f"{1 << 26}\n",
            f"{group}/memory/docker/x/memory.usage_in_bytes": f"{1 << 25}\n",
            f"{group}/memory/docker/x/memory.stat": f"total_inactive_file {1 << 20}\n",
            f"{group}/cpu/cpu.cfs_quota_us": "50000\n",
            f"{group}/cpu/cpu.cfs_period_us": "100000\n",
        },
    )

    found = probe(nvml=NONE, root=root)
    assert 1 << 26 == found.ram_total_bytes
    assert (1 << 25) + (1 << 20) == found.ram_available_bytes
    assert 1 == found.cores


def test_more_used_than_allowed(tmp_path: Path) -> None:
    """Nothing is free then; not less."""
    root = write(
        tmp_path,
        {
            "proc/self/cgroup": "0::/\n",
            "sys/fs/cgroup/memory.max": "1000",
            "sys/fs/cgroup/memory.current": "2000",
        },
    )
    assert (0, 0) == free_memory(nvml=NONE, root=root)
