"""Reranking: documents in and out."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from hugind.proxy.dialects.errors import DialectError
from hugind.proxy.dialects.rerank import RerankForm

ANSWER = orjson.dumps({"results": [{"index": 1, "relevance_score": 2.0}, {"index": 0, "relevance_score": 1.0}]})


def test_documents_may_be_objects() -> None:
    """The engine gets strings; what else there is passes."""
    request: dict[str, Any] = {"query": "q", "documents": ["a", {"text": "b", "id": 7}], "top_n": 1}
    form = RerankForm()
    form.take(request)

    assert {"query": "q", "documents": ["a", "b"], "top_n": 1} == request
    assert form.is_plain
    assert ANSWER == form.answer(ANSWER)


def test_documents_come_back() -> None:
    """Each with its result."""
    form = RerankForm()
    request = {"documents": ["a", {"text": "b"}], "return_documents": True}
    form.take(request)
    results = orjson.loads(form.answer(ANSWER))["results"]

    assert {"documents": ["a", "b"]} == request
    assert not form.is_plain
    assert [(1, {"text": "b"}), (0, {"text": "a"})] == [(result["index"], result["document"]) for result in results]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"documents": ["a", 3]}, "documents[1]"),
        ({"documents": [{}]}, "documents[0]"),
        ({"top_n": 0}, "top_n"),
        ({"top_n": True}, "top_n"),
    ],
)
def test_what_is_refused(fields: dict[str, Any], param: str) -> None:
    """By its field."""
    with pytest.raises(DialectError) as refused:
        RerankForm().take(fields)

    assert param == refused.value.param


def test_documents_that_are_no_list() -> None:
    """The engine says what is wrong, and knows another form (`texts`)."""
    request = {"texts": ["a"]}
    RerankForm().take(request)

    assert {"texts": ["a"]} == request
