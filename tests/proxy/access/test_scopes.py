"""Which scope every route needs."""

from __future__ import annotations

import pytest

from hugind.proxy.access.principal import Scope
from hugind.proxy.access.scopes import needed_scope
from hugind.proxy.routes import anthropic, ollama, openai, responses

ROUTES: dict[str, Scope | None] = {
    "/v1/chat/completions": "inference",
    "/v1/completions": "inference",
    "/v1/responses": "inference",
    "/v1/messages": "inference",
    "/v1/messages/count_tokens": "inference",
    "/v1/embeddings": "inference",
    "/v1/rerank": "inference",
    "/infill": "inference",
    "/tokenize": "inference",
    "/detokenize": "inference",
    "/v1/responses/input_tokens": "inference",
    "/v1/responses/resp_1": "inference",
    "/v1/responses/resp_1/input_items": "inference",
    "/v1/conversations": "inference",
    "/v1/conversations/conv_1/items": "inference",
    "/api/generate": "inference",
    "/api/chat": "inference",
    "/api/embed": "inference",
    "/api/embeddings": "inference",
    "/api/pull": "models",
    "/api/push": "models",
    "/api/create": "models",
    "/api/copy": "models",
    "/api/delete": "models",
    "/api/blobs/sha256:00": "models",
    "/api/tags": None,
    "/api/ps": None,
    "/api/show": "inference",
    "/api/version": None,
    "/v1/sessions": "sessions",
    "/v1/sessions/s1": "sessions",
    "/metrics": "metrics",
    "/admin/v1/engines": "admin",
    "/admin/v1/engines/a/restart": "admin",
    "/admin/v1/reload": "admin",
    "/admin/v1/sessions": "admin",
    "/admin/v1/sessions/s1": "admin",
    "/admin/v1/sessions/s1/pin": "admin",
    "/admin/v1/sessions/s1/export": "admin",
    "/admin/v1/sessions/import": "admin",
    "/admin/v1/users": "admin",
    "/admin/v1/users/alice": "admin",
    "/admin/v1/users/alice/keys": "admin",
    "/admin/v1/keys": "admin",
    "/admin/v1/keys/AbCd1234": "admin",
    "/admin/v1/keys/AbCd1234/rotate": "admin",
    "/admin/v1/usage": "admin",
    "/admin/v1/usage/requests": "admin",
    "/admin/v1/audit": "admin",
    "/admin/v1/database": "admin",
    "/admin/v1/queue": "admin",
    "/admin/v1/openapi.json": "admin",
    "/v1/me": None,
    "/v1/me/sessions": None,
    "/v1/models": None,
    "/v1/models/org/name": None,
    "/version": None,
    "/health": None,
    "/livez": None,
    "/readyz": None,
}


@pytest.mark.parametrize(("path", "scope"), ROUTES.items())
def test_every_route(path: str, scope: Scope | None) -> None:
    assert scope == needed_scope(path)
    assert scope == needed_scope(path + "/")


def test_all_that_generates_is_inference() -> None:
    """A handler that is added is asked for, here and in the table above."""
    handlers = {*openai.ROUTES, *responses.ROUTES, *anthropic.ROUTES, *ollama.ROUTES}

    assert handlers <= {path for path, scope in ROUTES.items() if scope == "inference"}
    assert {"inference"} == {needed_scope(path) for path in handlers}


@pytest.mark.parametrize(
    "path", ["/admin", "/admin/", "/admin/nothing", "/admin/v2/x", "/admin//v1", "/admin/../v1/models"]
)
def test_all_below_admin_is_for_the_admin(path: str) -> None:
    """Whether there is such a route or not."""
    assert needed_scope(path) == "admin"


@pytest.mark.parametrize(
    "path", ["/", "", "/administration", "/v1/sessionsx", "/metricsx", "/nothing", "/x/admin/v1/users"]
)
def test_other_paths(path: str) -> None:
    """There is nothing; any key may be told so."""
    assert needed_scope(path) is None
