"""What people call a model of the hub, and what the files of its repository are by their names. Pure.

`model-Q4_K_M.gguf` is a model, `model-Q8_0-00001-of-00003.gguf` a third of one, `mmproj-F16.gguf` a vision projector
of the models beside it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from hugind.supervisor.errors import HugindError

SHORT_HOST = "hf.co"
"""What clients put before a repository's name to say that it is one."""

_HOST = r"(?:(?:https?://)?(?:hf\.co|huggingface\.co)/)?"
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_FILE = r"(?:[A-Za-z0-9][A-Za-z0-9._+-]*/){0,4}[A-Za-z0-9][A-Za-z0-9._+-]{0,200}\.gguf"
_REVISION = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
_REFERENCE = re.compile(
    rf"{_HOST}(?P<user>{_NAME})/(?P<repo>{_NAME})"
    rf"(?:@(?P<revision>{_REVISION}))?"
    rf"(?:/(?:(?:blob|resolve)/(?P<page>{_REVISION})/)?(?P<file>{_FILE}))?"
    r"(?::(?P<quant>[A-Za-z0-9][A-Za-z0-9._-]{0,127}))?",
)
_LATEST = "latest"

_SPLIT = re.compile(r"(?P<stem>.+)-(?P<at>\d{5})-of-(?P<of>\d{5})\.gguf", re.IGNORECASE)
_MAX_PARTS = 512
_LONGEST_FILE = 220  # with what is put behind it while it comes, a file system takes it
_QUANT = re.compile(
    r"(?:^|[-._/])(?P<quant>(?:UD-)?(?:I?Q\d(?:_[A-Z0-9]+)*|TQ\d_\d|BF16|F16|F32|FP16|FP32|MXFP4(?:_MOE)?|NVFP4))"
    r"(?=$|[-._/])",
    re.IGNORECASE,
)
_DEFAULTS = (
    *("Q4_K_M", "Q4_0", "Q4_K_S", "UD-Q4_K_XL", "IQ4_NL", "IQ4_XS", "MXFP4", "MXFP4_MOE"),
    *("Q5_K_M", "Q5_K_S", "Q5_0", "Q6_K", "Q8_0", "Q3_K_M", "Q3_K_L", "Q3_K_S"),
)
"""Which file is meant where none is named: what most machines run and few people tell from the original."""
_PROJECTORS = ("F16", "BF16", "Q8_0", "F32")


class ReferenceProblem(HugindError):  # noqa: N818 - what is wrong with what was typed
    """What was given names no repository of the hub."""


@dataclass(frozen=True)
class Reference:
    """A model of the hub as people name it."""

    user: str
    repo: str
    quant: str | None = None
    file: str | None = None
    """A file of the repository, by its path there."""
    revision: str | None = None

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        file = f"/{self.file}" if self.file else ""
        return f"{self.user}/{self.repo}{revision}{file}{f':{self.quant}' if self.quant else ''}"


def parse_reference(text: str) -> Reference:
    """`user/repo`, `user/repo:Q4_K_M`, `user/repo/file.gguf`, `user/repo@revision`, with the hub before it or not.

    Raises:
        ReferenceProblem: it is none of them.
    """
    found = _REFERENCE.fullmatch(text.strip())
    if found is None or ".." in text:
        raise ReferenceProblem(
            f"{text!r} names no model of the hub",
            hint="user/repo, user/repo:Q4_K_M or user/repo/file.gguf",
        )
    quant = found["quant"]
    return Reference(
        user=found["user"],
        repo=found["repo"],
        quant=None if quant is None or quant.casefold() == _LATEST else quant,
        file=found["file"],
        revision=found["revision"] or found["page"],
    )


def is_name(text: str) -> bool:
    """It can be a user or a repository, and so the name of a folder."""
    return re.fullmatch(_NAME, text) is not None and ".." not in text


def base_name(path: str) -> str:
    """The last part of a path of a repository."""
    return path.rpartition("/")[2]


def is_model_file(name: str) -> bool:
    """A GGUF file that an engine can load, by its name: not hidden, and no matrix of importances."""
    plain = base_name(name).casefold()
    is_safe = len(plain.encode()) <= _LONGEST_FILE and plain.isprintable() and "\\" not in plain
    return is_safe and plain.endswith(".gguf") and not plain.startswith(".") and "imatrix" not in plain


def is_projector(name: str) -> bool:
    """A vision projector, which belongs to the models beside it."""
    return "mmproj" in base_name(name).casefold()


def model_stem(name: str) -> str:
    """A file's name without `.gguf`, and without the number of its part."""
    split = _SPLIT.fullmatch(name)
    return split["stem"] if split else name[: -len(".gguf")]


def part_names(name: str) -> list[str]:
    """All files of the model whose first is `name`, in their order."""
    split = _SPLIT.fullmatch(name)
    if split is None or int(split["at"]) != 1 or not 1 <= int(split["of"]) <= _MAX_PARTS:
        return [name]
    return [f"{split['stem']}-{at:05}-of-{split['of']}{name[-5:]}" for at in range(1, int(split["of"]) + 1)]


def first_parts(names: Collection[str]) -> list[str]:
    """One file for each model that is all there, sorted: itself, or the first of its parts. No projectors."""
    present = set(names)
    return sorted(
        name
        for name in present
        if is_model_file(name)
        and not is_projector(name)
        and ((split := _SPLIT.fullmatch(name)) is None or int(split["at"]) == 1)
        and present.issuperset(part_names(name))
    )


def quant_of(name: str) -> str | None:
    """How a file's weights are stored, as its name says: `Q4_K_M`, `UD-Q4_K_XL`, `BF16`."""
    found = [match["quant"].upper() for match in _QUANT.finditer(name)]
    return found[-1] if found else None


def is_quant(name: str, asked: str) -> bool:
    """Whether the file is what was asked for: by its quant, in any case, or by its own name."""
    wanted = asked.casefold()
    quant = (quant_of(name) or "").casefold()
    stem = model_stem(base_name(name)).casefold()
    return wanted in (quant, quant.removeprefix("ud-"), stem, base_name(name).casefold())


def choose_default(sizes: Mapping[str, int]) -> str | None:
    """Which of the models is meant where none is named: by its quant, else the smallest. None: there are none."""
    quants = {name: quant_of(name) for name in sorted(sizes)}
    for wanted in _DEFAULTS:
        for name, quant in quants.items():
            if quant == wanted:
                return name
    return min(quants, key=lambda name: sizes[name], default=None)


def choose_projector(names: Collection[str]) -> str | None:
    """The projector to load with the models beside it: f16 before others. None: there is none."""
    found = sorted(name for name in names if is_projector(name) and is_model_file(name))
    return min(found, key=lambda name: _rank(quant_of(name)), default=None)


def _rank(quant: str | None) -> int:
    return _PROJECTORS.index(quant) if quant in _PROJECTORS else len(_PROJECTORS)
