"""llama-server's command line as text: old spellings made new, and a parser for wheels that do not export llama.cpp's.

That parser knows the flags of `embedded_table.py` and refuses the others: a flag that is taken in silence and then has
no effect is worse than one that is refused.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import psutil
import xllamacpp as x

from hugind.supervisor.llama.embedded_table import FLAGS, Flag, Ignored, Switch, Value

_UNUSABLE = (ValueError, TypeError, OverflowError, OSError)
"""What a value that does not do can raise, in a reader or in the wheel's setter."""


class FlagError(Exception):
    """A command line that cannot be used. `str()` is what llama-server would say."""


def parse(params: x.CommonParams, argv: Sequence[str], environ: Mapping[str, str]) -> None:
    """Set `params` from `environ` first and then from `argv`, which wins, as llama-server does.

    Raises:
        FlagError: an unknown flag, or a value that does not do.
    """
    _set_server_defaults(params)
    for flag in FLAGS:
        _apply_variable(params, flag, environ)
    by_name = {name: flag for flag in FLAGS for name in _all_names(flag)}
    words = iter(argv)
    for word in words:
        name = _with_dashes(word)
        if name not in by_name:
            raise FlagError(f"error: invalid argument: {word}")
        _apply_flag(params, by_name[name], name, words)
    _fill_threads(params)


def describe() -> str:
    """The flags that `parse` knows, a line for each: the answer to `--help`."""
    lines = [", ".join(_all_names(flag)) + ("" if isinstance(flag, Switch) else " VALUE") for flag in FLAGS]
    return "\n".join(["-h, --help, --usage", "--version", *lines])


def modernise(argv: Sequence[str]) -> list[str]:
    """`argv` with spellings that llama.cpp has dropped (seen: b11434, b11549) rewritten to the current ones."""
    modern: list[str] = []
    dropped: set[str] = set()
    for at, word in enumerate(argv):
        following = argv[at + 1] if at + 1 < len(argv) else "-"
        if word in _LOAD_WORDS:
            dropped.add(_LOAD_WORDS[word])
        elif word in ("-fa", "--flash-attn") and following.startswith("-"):
            modern += [word, "on"]
        else:
            modern.append(_RENAMED.get(word, word))
    mode = _load_mode(dropped)
    return [*modern, "--load-mode", mode] if mode else modern


_LOAD_WORDS = {
    "--mlock": "mlock",
    "--no-mmap": "no-mmap",
    "--mmap": "default",
    "--direct-io": "dio",
    "-dio": "dio",
    "--no-direct-io": "default",
    "-ndio": "default",
}

_RENAMED = {
    "--draft": "--spec-draft-n-max",
    "--draft-n": "--spec-draft-n-max",
    "--draft-max": "--spec-draft-n-max",
    "--draft-min": "--spec-draft-n-min",
    "--draft-n-min": "--spec-draft-n-min",
}


def _load_mode(dropped: set[str]) -> str | None:
    if "dio" in dropped:
        return "dio"
    if "mlock" in dropped:
        return "mlock" if "no-mmap" in dropped else "mmap+mlock"
    return "none" if "no-mmap" in dropped else None


def _set_server_defaults(params: x.CommonParams) -> None:
    params.n_parallel = -1
    params.default_template_kwargs = {"preserve_reasoning": "true"}


def _apply_variable(params: x.CommonParams, flag: Flag, environ: Mapping[str, str]) -> None:
    if isinstance(flag, Ignored) or not flag.env:
        return
    variable = flag.env if flag.env.startswith("LLAMA_") else f"LLAMA_ARG_{flag.env}"
    try:
        if isinstance(flag, Value):
            if variable in environ:
                _store(params, flag, environ[variable])
        elif flag.off_names and variable.replace("_ARG_", "_ARG_NO_") in environ:
            _put(params, flag.to, flag.off)
        elif variable in environ:
            is_on = _truth(environ[variable])
            if is_on or flag.off_names:
                _put(params, flag.to, flag.on if is_on else flag.off)
    except _UNUSABLE as error:
        raise FlagError(f'error while handling environment variable "{variable}": {error}') from error


def _apply_flag(params: x.CommonParams, flag: Flag, name: str, words: Iterator[str]) -> None:
    if isinstance(flag, Switch):
        _put(params, flag.to, flag.on if name in flag.names.split() else flag.off)
        return
    if isinstance(flag, Ignored) and not flag.takes_value:
        return
    try:
        text = next(words)
    except StopIteration:
        raise FlagError(f'error while handling argument "{name}": expected value for argument') from None
    if isinstance(flag, Value):
        try:
            _store(params, flag, text)
        except _UNUSABLE as error:
            raise FlagError(f'error while handling argument "{name}": {error}') from error


def _store(params: x.CommonParams, flag: Value, text: str) -> None:
    _put(params, flag.to, flag.read(text))
    if flag.sampling:
        mark = getattr(x.common_params_sampling_config, f"COMMON_PARAMS_SAMPLING_CONFIG_{flag.sampling}")
        params.sampling.user_sampling_config |= mark.value


def _put(params: x.CommonParams, paths: str, value: Any) -> None:
    """Set the dotted `paths`. A path that ends in `+` grows by `value`; `path=literal` brings its own value."""
    for path in paths.split():
        path, _, literal = path.partition("=")
        *holders, attribute = path.rstrip("+").split(".")
        holder: Any = params
        for step in holders:
            holder = getattr(holder, step)
        chosen = json.loads(literal) if literal else value
        if not path.endswith("+"):
            setattr(holder, attribute, chosen)
        elif isinstance(chosen, dict):
            setattr(holder, attribute, {**getattr(holder, attribute), **chosen})
        else:
            setattr(holder, attribute, getattr(holder, attribute) + chosen)


def _fill_threads(params: x.CommonParams) -> None:
    """Threads that nobody chose: as many as there are cores; then batches, and then the draft, do as the model does."""
    draft = params.speculative.draft
    cores = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    _default_threads(params.cpuparams, cores)
    _default_threads(params.cpuparams_batch, params.cpuparams.n_threads)
    _default_threads(draft.cpuparams, params.cpuparams.n_threads)
    _default_threads(draft.cpuparams_batch, params.cpuparams_batch.n_threads)


def _default_threads(chosen: x.CpuParams, n_threads: int) -> None:
    if chosen.n_threads <= 0:
        chosen.n_threads = n_threads


def _all_names(flag: Flag) -> list[str]:
    return [*flag.names.split(), *(flag.off_names.split() if isinstance(flag, Switch) else ())]


def _with_dashes(word: str) -> str:
    """llama-server takes `--ctx_size` for `--ctx-size`."""
    return word.replace("_", "-") if word.startswith("--") else word


def _truth(text: str) -> bool:
    if text in ("on", "enabled", "true", "1"):
        return True
    if text in ("off", "disabled", "false", "0"):
        return False
    raise ValueError(f"not a boolean: '{text}'")
