"""Which file of a model is the one with about 8, or 4, bits to a weight?

A file is stored in one way and no other: what transformers does while it loads is, for GGUF files, another download.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from hugind.supervisor.aliases import AliasError
from hugind.supervisor.model_names import match_name
from hugind.supervisor.models.library import LibraryModel
from hugind.supervisor.models.repository import quant_of

Quantization = Literal["8bit", "4bit"]

_BEST: dict[Quantization, tuple[str, ...]] = {
    "8bit": ("UD-Q8_K_XL", "Q8_0", "Q8_K"),
    "4bit": (
        *("UD-Q4_K_XL", "Q4_K_M", "Q4_K_L", "Q4_K_S", "IQ4_NL", "IQ4_XS", "Q4_1", "Q4_0", "Q4_K"),
        *("MXFP4_MOE", "MXFP4", "NVFP4"),
    ),
}
"""The best first."""
_USUAL: dict[Quantization, str] = {"8bit": "Q8_0", "4bit": "Q4_K_M"}
"""What nearly every repository has."""


def choose_quantized(models: Iterable[LibraryModel], model: str | Path, wanted: Quantization) -> LibraryModel:
    """The model of the library that is `model`, or lies beside it, and is stored so.

    Args:
        model: its name, whatever it is called; or its file.

    Raises:
        AliasError: there is none.
    """
    known = list(models)
    one = _find(known, model)
    if one is None:
        raise AliasError(
            f"'{model}' is no model of the library: which file it runs is for its config to say",
            hint="leave the quantization out",
        )
    best = _BEST[wanted]
    quants = {
        beside: quant_of(beside.path.name) for beside in known if (beside.user, beside.repo) == (one.user, one.repo)
    }
    if quants[one] in best:
        return one
    fitting = [(best.index(quant), beside.name, beside) for beside, quant in quants.items() if quant in best]
    if not fitting:
        repository = f"{one.user}/{one.repo}"
        raise AliasError(
            f"there is no file of {repository} with {wanted.removesuffix('bit')} bits here",
            hint=f"hugind pull {repository}:{_USUAL[wanted]}",
        )
    return min(fitting, key=lambda found: found[:2])[2]


def _find(models: list[LibraryModel], wanted: str | Path) -> LibraryModel | None:
    if isinstance(wanted, Path):
        return next((model for model in models if model.path == wanted), None)
    names = {name: model for model in reversed(models) for name in (*model.other_names, model.name)}
    found = match_name(wanted, names)
    return None if found is None else names[found]
