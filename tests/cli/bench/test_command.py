"""The command line of the bench."""

from __future__ import annotations

import subprocess
import sys


def test_help_is_cheap() -> None:
    """`hugind bench gateway --help` names its options and loads no server."""
    code = (
        "import sys; from hugind.cli.bench.command import bench_app\n"
        "try: bench_app(['gateway', '--help'])\n"
        "finally: print([name for name in ('aiohttp', 'uvloop', 'psutil', 'fastapi') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=False)

    assert done.stdout.splitlines()[-1] == "[]"
    for option in ("--requests", "--seconds", "--streams", "--json", "--dir", "--no-nginx"):
        assert option in done.stdout
