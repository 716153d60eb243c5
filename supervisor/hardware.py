"""What this machine has: GPUs, memory, cores. Bounded by the cgroup that we run in.

`Hardware.device` says what the machine offers, not what an engine uses: the wheel `xllamacpp` on Linux computes on the
CPU even where there is a GPU, and a native llama-server may be built without it. Ask the binary for that.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import psutil
import pynvml  # type: ignore[import-untyped]

_NO_LIMIT = 1 << 60
"""cgroup v1 writes a huge number where there is no limit."""


@dataclass(frozen=True)
class Gpu:
    """A GPU with memory of its own."""

    name: str
    total_bytes: int
    free_bytes: int


@dataclass(frozen=True)
class Hardware:
    """A machine when it was looked at."""

    device: str
    """cuda, metal or cpu: what the machine offers an engine that can use it."""
    ram_total_bytes: int
    ram_available_bytes: int
    cores: int
    """That we may use at once."""
    gpus: tuple[Gpu, ...]
    """Empty on Apple's machines, whose GPU shares the RAM."""


class Nvml(Protocol):
    """What is asked of NVIDIA's management library: the functions of `pynvml` that are used here."""

    @property
    def NVMLError(self) -> type[Exception]: ...  # noqa: N802 - theirs

    def nvmlInit(self) -> None: ...  # noqa: N802 - theirs
    def nvmlShutdown(self) -> None: ...  # noqa: N802
    def nvmlDeviceGetCount(self) -> int: ...  # noqa: N802
    def nvmlDeviceGetHandleByIndex(self, index: int) -> Any: ...  # noqa: N802
    def nvmlDeviceGetName(self, handle: Any) -> str | bytes: ...  # noqa: N802
    def nvmlDeviceGetMemoryInfo(self, handle: Any) -> Any: ...  # noqa: N802


def probe(*, nvml: Nvml = pynvml, root: Path = Path("/")) -> Hardware:
    """Look at this machine. Blocks for some milliseconds; a driver that is absent or broken counts as no GPU.

    Args:
        nvml: what to ask for GPUs.
        root: where `proc` and `sys` are.
    """
    memory = psutil.virtual_memory()
    limits = list(_memory_limits(root))
    gpus = _gpus(nvml)
    return Hardware(
        device="cuda" if gpus else "metal" if _is_apple() else "cpu",
        ram_total_bytes=min([memory.total, *(limit for limit, _ in limits)]),
        ram_available_bytes=min([memory.available, *(max(0, limit - used) for limit, used in limits)]),
        cores=_cores(root),
        gpus=gpus,
    )


def free_memory(*, nvml: Nvml = pynvml, root: Path = Path("/")) -> tuple[int, int]:
    """Bytes that are free now: RAM, and the memory of all GPUs together. Blocks as `probe` does."""
    found = probe(nvml=nvml, root=root)
    return found.ram_available_bytes, sum(gpu.free_bytes for gpu in found.gpus)


def _is_apple() -> bool:
    return sys.platform == "darwin" and platform.machine() == "arm64"


def _gpus(nvml: Nvml) -> tuple[Gpu, ...]:
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return ()
    try:
        found = [_gpu(nvml, index) for index in range(nvml.nvmlDeviceGetCount())]
    except nvml.NVMLError:
        return ()
    finally:
        _shut_down(nvml)
    return tuple(gpu for gpu in found if gpu is not None)


def _gpu(nvml: Nvml, index: int) -> Gpu | None:
    """None where this one does not answer: it fell off the bus, or we may not see it."""
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        name, memory = nvml.nvmlDeviceGetName(handle), nvml.nvmlDeviceGetMemoryInfo(handle)
    except nvml.NVMLError:
        return None
    return Gpu(
        name=name.decode("utf-8", "replace") if isinstance(name, bytes) else name,
        total_bytes=int(memory.total),
        free_bytes=int(memory.free),
    )


def _shut_down(nvml: Nvml) -> None:
    try:
        nvml.nvmlShutdown()
    except nvml.NVMLError:
        pass


def _memory_limits(root: Path) -> Iterator[tuple[int, int]]:
    """Of each cgroup that we are in: its limit, and what of it is used and cannot be had back."""
    for folder in _cgroups(root, ""):
        limit = _number(folder / "memory.max")
        if limit is not None:
            yield limit, (_number(folder / "memory.current") or 0) - _cached(folder, "inactive_file", "active_file")
    for folder in _cgroups(root, "memory"):
        limit = _number(folder / "memory.limit_in_bytes")
        if limit is not None and limit < _NO_LIMIT:
            used = _number(folder / "memory.usage_in_bytes") or 0
            yield limit, used - _cached(folder, "total_inactive_file", "total_active_file")


def _cached(folder: Path, *keys: str) -> int:
    """File pages: the kernel gives them up when memory is asked for."""
    lines = (line.split() for line in _text(folder / "memory.stat").splitlines())
    return sum(int(words[1]) for words in lines if len(words) > 1 and words[0] in keys and words[1].isdecimal())


def _cores(root: Path) -> int:
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    shares = [float(count)]
    for folder in _cgroups(root, ""):
        quota, _, period = _text(folder / "cpu.max").strip().partition(" ")
        if quota.isdecimal() and period.isdecimal() and int(period):
            shares.append(int(quota) / int(period))
    for folder in _cgroups(root, "cpu"):
        allowed, length = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
        if allowed and length:
            shares.append(allowed / length)
    return max(1, round(min(shares)))


def _cgroups(root: Path, controller: str) -> Iterator[Path]:
    """Folders of our cgroup and those above it: of version 2 without a `controller`, of version 1 with one."""
    base = root / "sys" / "fs" / "cgroup"
    for line in _text(root / "proc" / "self" / "cgroup").splitlines():
        _, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        if controller not in names.split(","):
            continue
        top = base / names if names else base
        if controller and not top.is_dir():
            top = base / controller
        inner = top / path.strip("/")
        for folder in (inner, *inner.parents):
            if folder.is_dir():
                yield folder
            if folder == top:
                break


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdecimal() else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
