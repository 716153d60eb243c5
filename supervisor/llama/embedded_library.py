"""The C++ functions inside the wheel `xllamacpp` that its Python API does not offer.

The extension module is a shared library with llama.cpp linked into it, and on Linux x86_64 and macOS arm64 it exports
llama.cpp's own symbols. None of this is a promise of the wheel: each function here says what it does without them.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache

import xllamacpp
import xllamacpp.xllamacpp as extension

_PARSE = "_Z19common_params_parseiPPcR13common_params13llama_examplePFviS0_E"
_LOG_MAIN = "_Z15common_log_mainv"
_LOG_FLUSH = "_Z16common_log_flushP10common_log"
_BUILD_NUMBER = "LLAMA_BUILD_NUMBER"

_EXAMPLE_SERVER = 12
"""`LLAMA_EXAMPLE_SERVER` of `enum llama_example` in b11549. A wrong value fails the self-test: no `--metrics` there."""

_MARKERS = {"n_predict": 0x5A17C0D1, "n_ctx": 0x5A17C0D2, "n_batch": 0x5A17C0D3, "n_ubatch": 0x5A17C0D4}
"""The first four fields of `struct common_params`, each with a value that does not occur by chance."""

_SCAN_BYTES = 64

_ENGINE_VARIABLES = ("LLAMA_", "HF_", "MTMD_")


def can_parse() -> bool:
    """Does the wheel export llama.cpp's parser, and does it write where we think it does? Tries it out."""
    if not hasattr(_library(), _PARSE) or _offset_in_wrapper() is None:
        return False
    scratch = xllamacpp.CommonParams()
    flags = "-m probe.gguf -c 777 --host ::1,probe.sock --port 4711 --metrics --cache-reuse 33 --temp 0.5 -sps 0.25"
    with _without_engine_variables():
        accepted = parse(scratch, flags.split())
    found = (
        scratch.model.path,
        scratch.n_ctx,
        scratch.hostnames,
        scratch.port,
        scratch.endpoint_metrics,
        scratch.n_cache_reuse,
        scratch.sampling.temp,
        scratch.slot_prompt_similarity,
    )
    return accepted and found == ("probe.gguf", 777, ["::1", "probe.sock"], 4711, True, 33, 0.5, 0.25)


def parse(params: xllamacpp.CommonParams, argv: Sequence[str]) -> bool:
    """Parse llama-server's flags and environment variables into `params`; False after a reason on stderr.

    Flags that answer and end (`--help`, `--list-devices`) end the process from inside, with exit code 0.
    Only after `can_parse()` said yes.
    """
    offset = _offset_in_wrapper()
    assert offset is not None
    function = getattr(_library(), _PARSE)
    function.restype = ctypes.c_bool
    function.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p]
    words = [os.fsencode(word) for word in ("llama-server", *argv)]
    array = (ctypes.c_char_p * (len(words) + 1))(*words, None)
    return bool(function(len(words), array, id(params) + offset, _EXAMPLE_SERVER, None))


def set_build_number(number: int) -> None:
    """Make the engine report build `number` instead of 0, in its log, `/props` and `system_fingerprint`.

    Without the symbol it goes on reporting 0. To be called before the engine first tells its build.
    """
    try:
        ctypes.c_int.in_dll(_library(), _BUILD_NUMBER).value = number
    except ValueError:
        return


def flush_log() -> None:
    """Wait until the engine's log thread has written all lines, so that what we write next comes last.

    Without the symbols lines may come in another order.
    """
    library = _library()
    if not (hasattr(library, _LOG_MAIN) and hasattr(library, _LOG_FLUSH)):
        return
    log_main = getattr(library, _LOG_MAIN)
    log_main.restype = ctypes.c_void_p
    log_flush = getattr(library, _LOG_FLUSH)
    log_flush.argtypes = [ctypes.c_void_p]
    log_flush.restype = None
    log_flush(log_main())


@cache
def _library() -> ctypes.CDLL:
    return ctypes.CDLL(extension.__file__)


@cache
def _offset_in_wrapper() -> int | None:
    """Where in a Python `CommonParams` object the C++ struct begins: found by marking its first fields."""
    marked = xllamacpp.CommonParams()
    for field, value in _MARKERS.items():
        setattr(marked, field, value)
    pattern = b"".join(value.to_bytes(4, sys.byteorder) for value in _MARKERS.values())
    at = ctypes.string_at(id(marked), _SCAN_BYTES).find(pattern)
    return None if at < 0 else at


@contextmanager
def _without_engine_variables() -> Iterator[None]:
    """A user's LLAMA_ARG_PORT must not decide the self-test, nor be complained about twice."""
    hidden = {name: value for name, value in os.environ.items() if name.startswith(_ENGINE_VARIABLES)}
    for name in hidden:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(hidden)
