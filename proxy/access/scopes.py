"""Which scope does a path need? Pure."""

from __future__ import annotations

from hugind.proxy.access.principal import Scope

_INFERENCE = frozenset(
    {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/responses",
        "/v1/messages",
        "/v1/messages/count_tokens",
        "/v1/embeddings",
        "/v1/rerank",
        "/api/generate",
        "/api/chat",
        "/api/embed",
        "/api/show",
        "/api/embeddings",
        "/infill",
        "/tokenize",
        "/detokenize",
    }
)

_TREES: tuple[tuple[str, Scope], ...] = (
    ("/admin", "admin"),
    ("/v1/sessions", "sessions"),
    ("/v1/responses", "inference"),
    ("/v1/conversations", "inference"),
    ("/metrics", "metrics"),
    ("/api/pull", "models"),
    ("/api/push", "models"),
    ("/api/create", "models"),
    ("/api/copy", "models"),
    ("/api/delete", "models"),
    ("/api/blobs", "models"),
)
"""Of the path and all below it, whether there is such a route or not."""


def needed_scope(path: str) -> Scope | None:
    """What a key must be for to ask for `path`, without the part that carries a key; None: any valid key will do.

    A path says it whatever the method: `GET` and `HEAD` must not show what `POST` is refused.
    """
    path = path.rstrip("/")
    if path in _INFERENCE:
        return "inference"
    for root, scope in _TREES:
        if path == root or path.startswith(root + "/"):
            return scope
    return None
