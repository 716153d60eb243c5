"""The admin API as a document, and whether the gateway keeps to it whatever it is asked."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import requests
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import APIOperation, Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from hugind.proxy.access.accounts import Accounts
from hugind.proxy.access.principal import Principal
from hugind.proxy.records.database import Database, parse_address
from hugind.proxy.routes.openapi import admin_openapi, openapi_router
from hugind.proxy.routes.records import Records, records_router
from tests.proxy.routes.calling import Asking
from tests.proxy.serving import ADMIN_KEY, chat, serving, standin_config

EXAMPLES = 8
"""Of each kind, for each operation."""
ADMIN = {"Authorization": f"Bearer {ADMIN_KEY}"}
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


@schemathesis.serializer("application/x-tar")
def tar(_: object, value: Any) -> Any:
    """Anything but a tar."""
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "replace")


async def test_the_document_is_for_the_admin(tmp_path: Path) -> None:
    """Whoever may use the API may read what it is, and nobody else."""
    async with serving(tmp_path, {"chat": standin_config(tmp_path)}) as served:
        path = "/admin/v1/openapi.json"
        document = (await served.client.get(path, headers=ADMIN)).json()
        refused = await served.client.get(path)

        assert 403 == refused.status_code
        assert all(path.startswith("/admin/v1/") for path in document["paths"])
        assert {"/admin/v1/users/{username}", "/admin/v1/engines", "/admin/v1/sessions/import"} <= document[
            "paths"
        ].keys()


def test_every_operation_is_described(tmp_path: Path) -> None:
    """What it does, what it answers, and how it refuses: in our shape, and never with FastAPI's 422."""
    for path, method, operation in _operations(_document(tmp_path)):
        schema = next(answer for status, answer in operation["responses"].items() if status < "300")

        assert operation["description"], (path, method)
        assert schema["content"], (path, method)
        assert "422" not in operation["responses"]
        assert {"400", "401", "403", "404", "503"} <= operation["responses"].keys()
        assert "Refusal" in str(operation["responses"]["400"])


def test_a_secret_is_in_two_answers(tmp_path: Path) -> None:
    """Where a key is made, and where it is rotated."""
    document = _document(tmp_path)
    told = {
        operation["operationId"]
        for _, _, operation in _operations(document)
        if "secret" in _properties(document, operation["responses"])
    }

    assert {"create_key", "rotate_key"} == told


def _document(folder: Path) -> dict[str, Any]:
    database = Database(parse_address(None, folder / "unused.db"))
    app = FastAPI(openapi_url=None)
    app.include_router(records_router(Records(database, Accounts(database))))
    return admin_openapi(app)


def _operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def _properties(document: dict[str, Any], part: Any) -> set[str]:
    """Every property below, references followed."""
    found: set[str] = set()
    if isinstance(part, dict):
        found.update(part.get("properties", {}))
        if "$ref" in part:
            found |= _properties(document, document["components"]["schemas"][part["$ref"].rpartition("/")[2]])
        for value in part.values():
            found |= _properties(document, value)
    return found


async def test_the_gateway_keeps_to_it(tmp_path: Path, database_address: str) -> None:
    """Whatever fits the document, and much that does not: no fault of ours, and answers as they are described."""
    database = Database(parse_address(database_address, tmp_path))
    await database.upgrade()
    await database.aclose()
    config = standin_config(tmp_path)
    async with serving(tmp_path, {"chat": config}, database_address=database_address) as served:
        document = (await served.client.get("/admin/v1/openapi.json", headers=ADMIN)).json()
        counts = await asyncio.to_thread(_ask_everything, document, f"http://127.0.0.1:{served.port}")
        still = await served.client.get("/admin/v1/users", headers=ADMIN)

    assert set(counts) == {f"{method.upper()} {path}" for path, method, _ in _operations(document)}
    assert min(counts.values()) >= EXAMPLES
    assert 200 == still.status_code


def _ask_everything(document: dict[str, Any], url: str) -> Counter[str]:
    """Blocks. Returns how often each operation was asked."""
    schema = schemathesis.openapi.from_dict(document)
    asked: Counter[str] = Counter()
    with requests.Session() as session:
        session.headers.update(ADMIN)
        session.trust_env = False
        for number, found in enumerate(schema.get_all_operations()):
            assert isinstance(found, Ok)
            operation = found.ok()
            known = _known(session, url, operation.path, f"user{number}")
            for strategy in _strategies(operation, known):
                _ask(strategy, session, url, asked)
    return asked


def _known(session: requests.Session, url: str, path: str, name: str) -> dict[str, str]:
    """Something that the operation finds, so that it has work to do."""

    def made(path: str, body: dict[str, Any]) -> requests.Response:
        answer = session.post(url + path, json=body)
        answer.raise_for_status()
        return answer

    known = {"name": "chat"}
    if "username" in path or "key_id" in path:
        made("/admin/v1/users", {"username": name})
        known |= {"username": name, "key_id": made(f"/admin/v1/users/{name}/keys", {}).json()["id"]}
    if "/aliases/" in path:
        made("/admin/v1/aliases", {"name": name, "model": "chat"})
        known["name"] = name
    if "session_id" in path:
        known["session_id"] = made("/v1/chat/completions", chat(name)).headers["x-hugind-session-id"]
    return {name: value for name, value in known.items() if f"{{{name}}}" in path}


def _strategies(
    operation: APIOperation[Any, Any, Any, Any], known: dict[str, str]
) -> Iterator[st.SearchStrategy[Case[Any]]]:
    yield operation.as_strategy(GenerationMode.POSITIVE)
    yield operation.as_strategy(GenerationMode.NEGATIVE)
    if known:
        yield operation.as_strategy(GenerationMode.POSITIVE, path_parameters=known)


def _ask(strategy: st.SearchStrategy[Case[Any]], session: requests.Session, url: str, asked: Counter[str]) -> None:
    @settings(
        max_examples=EXAMPLES, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
    )
    @given(case=strategy)
    def ask(case: Case[Any]) -> None:
        asked[f"{case.method} {case.operation.path}"] += 1
        case.validate_response(case.call(base_url=url, session=session, timeout=30), checks=CHECKS)

    try:
        ask()
    except Unsatisfiable:
        pass  # an operation without a parameter or a body cannot be asked wrongly


async def test_it_is_made_once() -> None:
    """Programs get the same document every time, and it is no part of itself."""
    asking = Asking(principal=Principal("root", scopes=frozenset({"admin"})))
    asking.app.include_router(openapi_router(asking.app))
    async with asking.client() as client:
        first, second = [(await client.get("/openapi.json")).json() for _ in range(2)]

    assert first == second
    assert {} == first["paths"]
