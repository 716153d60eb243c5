"""What llama-server tells of itself at `/metrics`, of several workers in one text. Pure.

Its names begin with `llamacpp:` and stay as they are; each sample gets labels that say whose it is. Whatever else is in
the text is left out: it comes from a process that has been talking to the outside.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

PREFIX = "llamacpp:"

_NAME = r"llamacpp:[A-Za-z0-9_:]{1,100}"
_ABOUT = re.compile(rf"# (HELP|TYPE) ({_NAME}) ([^\r\n]{{1,500}})")
_SAMPLE = re.compile(rf"({_NAME})(?:\{{([^\r\n{{}}]{{0,500}})\}})? (\S{{1,40}})")
_LABELS = re.compile(r'[a-zA-Z_]\w*="(?:[^"\\\n]|\\["\\n])*"(?:,[a-zA-Z_]\w*="(?:[^"\\\n]|\\["\\n])*")*,?')
_TYPES = ("counter", "gauge", "untyped")


@dataclass
class _Family:
    help: str | None = None
    type: str = "untyped"
    samples: list[str] = field(default_factory=list)


def relabelled(texts: Iterable[tuple[Mapping[str, str], str]]) -> str:
    """The samples of all texts, each with the labels beside its text, and what is said of a family said once."""
    families: dict[str, _Family] = {}
    for labels, text in texts:
        ours = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())
        for line in text.splitlines():
            _take(line, ours, families)
    lines = []
    for name, family in families.items():
        if family.samples:
            lines += [f"# HELP {name} {family.help}"] if family.help else []
            lines += [f"# TYPE {name} {family.type}", *family.samples]
    return "".join(f"{line}\n" for line in lines)


def _take(line: str, ours: str, families: dict[str, _Family]) -> None:
    if about := _ABOUT.fullmatch(line):
        kind, name, said = about.groups()
        family = families.setdefault(name, _Family())
        if kind == "HELP":
            family.help = family.help or said
        elif said in _TYPES:
            family.type = said
    elif sample := _SAMPLE.fullmatch(line):
        name, theirs, value = sample.groups()
        if _is_number(value) and (not theirs or _LABELS.fullmatch(theirs)):
            labels = f"{ours},{theirs.rstrip(',')}" if theirs else ours
            families.setdefault(name, _Family()).samples.append(f"{name}{{{labels}}} {value}")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text  # Python takes 1_000


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
