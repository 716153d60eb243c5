"""A stream in the form that a client asked for."""

from __future__ import annotations

import orjson
import pytest

from hugind.proxy.dialects.errors import EngineStreamError
from hugind.proxy.dialects.forms import DONE, FormStream, PlainForm
from hugind.proxy.dialects.openai_chat import ChatForm


def test_a_plain_form_changes_nothing() -> None:
    """What goes in comes out."""
    form, request = PlainForm(), {"a": 1}
    form.take(request)

    assert ({"a": 1}, {"b": 2}, [3]) == (request, form.event({"b": 2}), form.body([3]))
    assert form.is_plain


def test_a_stream_ends_with_its_mark() -> None:
    """Every event in the client's form, nothing for an empty one, and the end only behind a finished answer."""
    form = ChatForm()
    form.take({"functions": [{"name": "f"}], "messages": []})
    stream = FormStream(form)
    call = {"index": 0, "id": "x", "type": "function", "function": {"name": "f", "arguments": ""}}
    sent = stream.feed({"choices": [{"index": 0, "delta": {"tool_calls": [call]}, "finish_reason": None}]})

    assert b"" == stream.feed(None)
    assert {"function_call": {"name": "f", "arguments": ""}} == orjson.loads(sent[6:])["choices"][0]["delta"]
    with pytest.raises(EngineStreamError):
        stream.finish()

    stream.feed({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})

    assert DONE == stream.finish()


def test_an_error_in_a_stream_is_raised() -> None:
    """It is no part of the answer."""
    with pytest.raises(EngineStreamError, match="broken"):
        FormStream(PlainForm()).feed({"error": {"message": "broken"}})
