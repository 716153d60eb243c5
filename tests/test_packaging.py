"""What is shipped is what is there, and every source file has its test."""

from __future__ import annotations

import re
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests.engines import ROOT

PACKAGES = ("supervisor", "proxy", "cli")

WITHOUT_A_TEST = {
    "supervisor/errors.py": "classes of values and no decisions; every one is raised in other tests",
    "proxy/access/errors.py": "as supervisor/errors.py",
    "proxy/access/principal.py": "values; what is decided by them is tested where it is",
    "proxy/start_options.py": "values; those that they decide for are tested with them",
    "proxy/records/errors.py": "as supervisor/errors.py",
    "proxy/records/schema.py": "tables; tests/proxy/records/test_database.py compares them with the migrations",
    "proxy/records/migrations/env.py": "alembic runs it; tests/proxy/records/test_database.py runs alembic",
    "proxy/records/migrations/run.py": "tests/proxy/records/test_database.py runs it",
    "proxy/records/migrations/versions/v0001_first.py": "tests/proxy/records/test_database.py runs it",
    "proxy/records/migrations/versions/v0002_responses.py": "tests/proxy/records/test_database.py runs it",
}
"""Source files that have no mirror under tests/, with the reason."""

_PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def _sources(*folders: str) -> list[Path]:
    found = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    return sorted(path.relative_to(ROOT) for path in found if "__pycache__" not in path.parts)


def test_packages() -> None:
    """Every folder with Python in it is a package that is shipped, and no other is named."""
    folders = {path.parent for path in _sources(*PACKAGES, "configs")}
    there = {".".join(("hugind", *folder.parts)) for folder in folders}

    assert set(_PYPROJECT["tool"]["setuptools"]["packages"]) == there


def test_every_package_has_an_init() -> None:
    """A folder without `__init__.py` would not be shipped."""
    folders = {path.parent for path in _sources(*PACKAGES, "configs")}
    without = sorted(str(folder) for folder in folders if not (ROOT / folder / "__init__.py").exists())

    assert without == []


def test_package_data() -> None:
    """Every file beside the code is shipped."""
    data: dict[str, list[str]] = _PYPROJECT["tool"]["setuptools"]["package-data"]
    shipped = {"configs": [*data["hugind.configs"], *data["*"]], **dict.fromkeys(PACKAGES, data["*"])}
    left_out = []
    for package, patterns in shipped.items():
        for path in (ROOT / package).rglob("*"):
            name = path.relative_to(ROOT / package).as_posix()
            if path.is_file() and path.suffix not in (".py", ".pyc") and not any(_fits(name, p) for p in patterns):
                left_out.append(f"{package}/{name}")

    assert left_out == []


def test_namespace_links() -> None:
    """Type checkers find each package where pip puts it."""
    wanted = {f"hugind.{name}": name for name in (*PACKAGES, "configs")}
    links = {f"hugind.{path.name}": path.readlink().name for path in (ROOT / ".namespace" / "hugind").iterdir()}
    broken = [str(path) for path in (ROOT / ".namespace" / "hugind").iterdir() if not path.is_dir()]

    assert links == wanted == _PYPROJECT["tool"]["setuptools"]["package-dir"]
    assert broken == []


@pytest.mark.parametrize("package", PACKAGES)
def test_mirror(package: str) -> None:
    """`proxy/slots.py` is tested by `tests/proxy/test_slots.py`."""
    missing = [
        str(path)
        for path in _sources(package)
        if path.name not in ("__init__.py", "__main__.py")
        and str(path) not in WITHOUT_A_TEST
        and not _mirror(path).exists()
    ]

    assert missing == []


def test_list_of_exceptions_is_short() -> None:
    """A file that has its test by now, or is gone, is no exception any more."""
    stale = [name for name in WITHOUT_A_TEST if _mirror(Path(name)).exists() or not (ROOT / name).exists()]

    assert stale == []


def test_imports_by_full_name() -> None:
    """`supervisor` and `proxy` are other people's packages on PyPI: ours are `hugind.supervisor` and so on."""
    names = "|".join((*PACKAGES, "configs"))
    bare = re.compile(rf"^\s*(from|import) ({names})\b", re.MULTILINE)
    guilty = [
        str(path)
        for path in _sources(*PACKAGES, "configs", "tests", "tools")
        if bare.search((ROOT / path).read_text(encoding="utf-8"))
    ]

    assert guilty == []


def _fits(name: str, pattern: str) -> bool:
    """As setuptools does it: a star stays within one folder, but for the pattern that stands for every package."""
    return fnmatch(name, pattern) and (name.count("/") == pattern.count("/") or pattern == "py.typed")


def _mirror(source: Path) -> Path:
    return ROOT / "tests" / source.parent / f"test_{source.name}"
