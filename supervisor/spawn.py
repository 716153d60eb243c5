"""One life of a worker: its process, its client, its socket, its record in the run folder."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence

import psutil

from hugind.supervisor import tasks
from hugind.supervisor.llama.client import WorkerClient
from hugind.supervisor.llama.command import Endpoint, TcpEndpoint, UnixEndpoint
from hugind.supervisor.process import ChildProcess
from hugind.supervisor.run_folder import RunFolder
from hugind.supervisor.worker_log import WorkerLog


class Spawn:
    """Lives from `start` to `close`; started and closed by `Worker.run`."""

    def __init__(
        self,
        process: ChildProcess,
        client: WorkerClient,
        endpoint: Endpoint,
        log: WorkerLog,
        folder: RunFolder,
        on_exit: Callable[[], None],
    ) -> None:
        self.process = process
        self.client = client
        self.endpoint = endpoint
        self.bytes_relayed = 0
        """Ever, by turns; a number that moves is a sign of life."""
        self.has_exited = False
        """The process is gone and its last words are in the log."""
        self.template_takes: frozenset[str] | None = None
        """What its chat template can render (`Props.template_takes`); known once the worker is ready."""
        self._log = log
        self._folder = folder
        self._watch = tasks.start(self._await_exit(on_exit), f"exit of {process.pid}")

    @classmethod
    async def start(
        cls,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        client: WorkerClient,
        endpoint: Endpoint,
        log: WorkerLog,
        folder: RunFolder,
        on_exit: Callable[[], None],
    ) -> Spawn:
        """Start a process and record it. `client` is closed by the spawn, or here if there will be none.

        Raises:
            OSError: it cannot be started or recorded; nothing runs then.
        """
        process = None
        try:
            process = await ChildProcess.spawn(argv, env=env, on_output=log.write)
            folder.record_worker(process.pid)
        except BaseException:
            client.close()
            if process:
                await process.close(0)
            raise
        return cls(process, client, endpoint, log, folder, on_exit)

    @property
    def exit_code(self) -> int:
        """As `subprocess`; only after `has_exited`."""
        assert self.process.returncode is not None
        return self.process.returncode

    def load_signs(self) -> tuple[int, ...]:
        """Numbers that move while a model loads: its output, its memory, what it read."""
        try:
            process = psutil.Process(self.process.pid)
            read = process.io_counters().read_bytes if hasattr(process, "io_counters") else 0
            return (self._log.bytes_written, process.memory_info().rss, read)
        except psutil.Error:
            return (self._log.bytes_written,)

    def cpu_s(self) -> float:
        """CPU seconds that the process has used."""
        try:
            times = psutil.Process(self.process.pid).cpu_times()
            return float(times.user + times.system)
        except psutil.Error:
            return 0.0

    async def close(self, grace_s: float) -> int:
        """Close the connections, then end the process: it ignores SIGTERM while a request is in flight."""
        try:
            self.client.close()
        finally:
            try:
                code = await self.process.close(grace_s)
            finally:
                self._folder.forget_worker(self.process.pid)
                if isinstance(self.endpoint, UnixEndpoint):
                    self.endpoint.path.unlink(missing_ok=True)
                await tasks.cancel(self._watch)
        return code

    async def _await_exit(self, on_exit: Callable[[], None]) -> None:
        await self.process.wait()
        self.has_exited = True
        on_exit()


def describe_endpoint(endpoint: Endpoint) -> str:
    """The endpoint for people and programs."""
    match endpoint:
        case UnixEndpoint(path):
            return str(path)
        case TcpEndpoint(port):
            return f"127.0.0.1:{port}"


def free_port() -> int:
    """A loopback port that is free now; somebody else may take it before it is used."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
