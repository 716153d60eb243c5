"""Saving, restoring and erasing a slot of the stand-in, with real files."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs

import orjson

from hugind.cli.bench.standin_engine import Brief, Engine, Job, Sink, Slot, pinned_slot
from hugind.cli.bench.standin_refusals import Refusal, invalid, parse_body, unsupported
from hugind.cli.bench.standin_replies import count_tokens, to_text, to_tokens
from hugind.cli.bench.standin_slotfile import SlotFileError, SlotFileTruncatedError, read_slot_file, write_slot_file

_BAD_NAME = set('/\\:*?"<>|')


def slot_action(engine: Engine, sink: Sink, wanted: str, query: str, raw: bytes) -> Job:
    if engine.options.slot_folder is None:
        raise unsupported("slots action. Start it with `--slot-save-path`")
    if not wanted.isdecimal():
        raise invalid("Invalid slot ID")
    action = parse_qs(query).get("action", [""])[0]
    if action not in _ACTIONS:
        raise invalid("Invalid action")
    name = "" if action == "erase" else _file_name(parse_body(raw))

    def work(slot: Slot) -> None:
        try:
            sink.reply(200, orjson.dumps({"id_slot": int(wanted), **_ACTIONS[action](engine, slot, name)}))
        except Refusal as refusal:
            sink.reply(refusal.status, refusal.body)

    return Brief(engine, pinned_slot(int(wanted), engine.options.slots), work)


def _save(engine: Engine, slot: Slot, name: str) -> dict[str, Any]:
    tokens = to_tokens(slot.text)
    split = not engine.options.is_unified
    data = write_slot_file(
        to_text(tokens), stream=slot.index if split else 0, n_stream=engine.options.slots if split else 1
    )
    assert engine.options.slot_folder is not None
    try:
        (engine.options.slot_folder / name).write_bytes(data)
    except OSError:
        raise Refusal(500, "server_error", "Unable to save slot") from None
    return {"filename": name, "n_saved": len(tokens), "n_written": len(data), "timings": {"save_ms": 0.1}}


def _restore(engine: Engine, slot: Slot, name: str) -> dict[str, Any]:
    """As llama-server: a refused file leaves the slot empty, a cut one ends the process."""
    slot.text = b""
    assert engine.options.slot_folder is not None
    try:
        data = (engine.options.slot_folder / name).read_bytes()
        tokens = read_slot_file(data, n_stream=1 if engine.options.is_unified else engine.options.slots)
    except SlotFileTruncatedError:
        engine.crash(f"GGML_ASSERT: {name} ends too early")
    except (OSError, SlotFileError):
        raise invalid("Unable to restore slot: No available space in KV cache or invalid slot save file") from None
    engine.restores += 1
    hollow_after = engine.options.faults.hollow_after
    slot.text = tokens if hollow_after is None or engine.restores <= hollow_after else b""
    return {
        "filename": name,
        "n_restored": len(tokens) // 4,
        "n_read": len(data),
        "timings": {"restore_ms": 0.1},
    }


def _erase(engine: Engine, slot: Slot, name: str) -> dict[str, Any]:
    erased, slot.text = count_tokens(slot.text), b""
    return {"n_erased": erased}


_ACTIONS: dict[str, Callable[[Engine, Slot, str], dict[str, Any]]] = {
    "save": _save,
    "restore": _restore,
    "erase": _erase,
}


def _file_name(body: dict[str, Any]) -> str:
    if "filename" not in body:
        raise invalid("[json.exception.out_of_range.403] key 'filename' not found")
    name = str(body["filename"])
    is_odd = name != name.strip(" ") or name.endswith(".") or ".." in name or len(name.encode()) > 255
    if not name or is_odd or _BAD_NAME & set(name) or any(ord(c) < 32 or 127 <= ord(c) < 160 for c in name):
        raise invalid("Invalid filename")
    return name
