"""Printing."""

from __future__ import annotations

import csv
import io
import json

import pytest

from hugind.cli import output


def test_data_goes_to_stdout_and_talk_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    """Programs can read stdout and never see talk."""
    output.print_json({"a": 1})
    output.say("working")
    output.fail("it broke", "mend it")
    printed = capsys.readouterr()

    assert json.loads(printed.out) == {"a": 1}
    assert printed.err == "working\nerror: it broke\nhint:  mend it\n"


def test_table_is_not_cut_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """A long cell stays whole where nobody sees columns; None reads as a dash; markup is text."""
    long = "x" * 150
    output.print_table("things", ("name", "note"), [(long, None), ("[bold]y", "[/]")])
    printed = capsys.readouterr().out

    assert long in printed
    assert "[bold]y" in printed
    assert " - " in printed


def test_progress_is_one_line_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """No spinner in a log file."""
    with output.progress("loading demo"):
        pass

    assert capsys.readouterr().err == "loading demo\n"


def test_bytes_are_two_lines_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """One when they begin to come, one when all are there; only the latter where nothing was left to come."""
    with output.bars(are_bytes=True) as show:
        for done in (0, 500, 1000, 1000):
            show("a.gguf", done, 1000)
        show("b.gguf", 2000, 2000)

    assert capsys.readouterr().err.splitlines() == [
        *("a.gguf: 0 of 1,000 bytes", "a.gguf: all 1,000 bytes are here", "b.gguf: all 2,000 bytes are here")
    ]


def test_nobody_elses_text_moves_the_cursor() -> None:
    """What a terminal would obey is replaced; lines, tabs and letters of all kinds stay."""
    assert output.plain("a\tb\nc \u00e9\u4f60") == "a\tb\nc \u00e9\u4f60"
    assert output.plain("\x1b[2Jx\x07\r\x9b") == "\ufffd[2Jx\ufffd\ufffd\ufffd"


def test_no_cell_is_a_formula(capsys: pytest.CaptureFixture[str]) -> None:
    """A spreadsheet takes what others wrote for text; numbers stay numbers, and lines and quotes stay in their cell."""
    evil = ("=1+1", "+1", "-1", "@sum", " =1", "\t=1", "\uff1dx")
    output.print_csv(("name", "count"), [*((cell, -1) for cell in evil), ('a "b",\nc\x1b', None)])
    printed = capsys.readouterr().out

    rows = list(csv.reader(io.StringIO(printed)))
    assert rows[0] == ["name", "count"]
    assert rows[1:-1] == [[f"'{cell}", "-1"] for cell in evil]
    assert rows[-1] == ['a "b",\nc\ufffd', ""]


def test_bars_are_lines_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """One for each that is done, none on the way."""
    with output.bars() as show:
        show("users", 0, 2)
        show("users", 2, 2)
        show("requests", 1000, 2000)

    assert capsys.readouterr().err == "users: 2\n"
