"""Embeddings of fewer dimensions."""

from __future__ import annotations

import base64
import struct
from typing import Any

import orjson
import pytest

from hugind.proxy.dialects.embeddings import EmbeddingForm, to_base64
from hugind.proxy.dialects.errors import DialectError


def answer(*vectors: Any) -> bytes:
    return orjson.dumps({"data": [{"embedding": vector, "index": at} for at, vector in enumerate(vectors)]})


def form_of(**fields: Any) -> EmbeddingForm:
    form = EmbeddingForm()
    form.take({"input": "a", **fields})
    return form


def test_without_dimensions_nothing_changes() -> None:
    """The engine does base64 itself."""
    request = {"input": "a", "encoding_format": "base64"}
    form = EmbeddingForm()
    form.take(request)

    assert form.is_plain
    assert "base64" == request["encoding_format"]
    assert b"not even JSON" == form.answer(b"not even JSON")


def test_a_vector_is_cut_and_of_length_one() -> None:
    """Each of them; one without length stays so."""
    form = form_of(dimensions=2)
    data = orjson.loads(form.answer(answer([3.0, 4.0, 12.0], [0.0, 0.0, 1.0])))["data"]

    assert not form.is_plain
    assert [0.6, 0.8] == pytest.approx(data[0]["embedding"])
    assert [0.0, 0.0] == data[1]["embedding"]


def test_the_same_in_base64() -> None:
    """Cut as numbers, then written."""
    request = {"dimensions": 2, "encoding_format": "base64"}
    form = EmbeddingForm()
    form.take(request)
    entry = orjson.loads(form.answer(answer([3.0, 4.0, 12.0])))["data"][0]

    assert {"encoding_format": "float"} == request
    assert "base64" == entry["encoding_format"]
    assert (0.6, 0.8) == pytest.approx(struct.unpack("<2f", base64.b64decode(entry["embedding"])))
    assert "AACAPw==" == to_base64([1.0])


@pytest.mark.parametrize("dimensions", [0, -1, "8", 1.5, True])
def test_dimensions_that_are_none(dimensions: Any) -> None:
    """Refused before anything is computed."""
    with pytest.raises(DialectError, match="at least 1"):
        form_of(dimensions=dimensions)


def test_more_dimensions_than_there_are() -> None:
    """Refused with how many the model has; a model without one vector for all has none to cut."""
    with pytest.raises(DialectError, match="the model has 3"):
        form_of(dimensions=4).answer(answer([3.0, 4.0, 12.0]))
    with pytest.raises(DialectError, match="every token"):
        form_of(dimensions=1).answer(answer([[3.0, 4.0], [1.0, 0.0]]))
