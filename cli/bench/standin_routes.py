"""The stand-in's routes: what a request does to the slots."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import orjson

from hugind.cli.bench.standin_engine import Brief, Engine, Job, Sink, Slot
from hugind.cli.bench.standin_generation import Generation
from hugind.cli.bench.standin_refusals import Refusal, invalid, parse_body, unsupported
from hugind.cli.bench.standin_replies import (
    ChatReply,
    CompletionReply,
    LegacyReply,
    Reply,
    ResponsesReply,
    count_tokens,
    embeddings_body,
    rerank_body,
    to_text,
    to_tokens,
)
from hugind.cli.bench.standin_slot_actions import slot_action

BUILD = "b0-standin"
_METRICS_TYPE = "text/plain; version=0.0.4"


def answer(engine: Engine, sink: Sink, method: str, path: str, query: str, body: bytes) -> Job | None:
    """Answer one request, now or later; returns what has to be abandoned if the client leaves before."""
    try:
        if engine.is_loading:
            raise Refusal(503, "unavailable_error", "Loading model")
        if method == "GET" and path in _GET:
            sink.reply(200, *_GET[path](engine))
            return None
        if method != "POST":
            raise Refusal(404, "not_found_error", "File Not Found")
        job = _work(engine, sink, path, query, body)
    except Refusal as refusal:
        sink.reply(refusal.status, refusal.body)
        return None
    if job is not None:
        engine.submit(job)
    return job


def _work(engine: Engine, sink: Sink, path: str, query: str, raw: bytes) -> Job | None:
    if path.startswith("/slots/"):
        return slot_action(engine, sink, path.removeprefix("/slots/"), query, raw)
    body = parse_body(raw)
    if path in _TURNS:
        make, prompt_of = _TURNS[path]
        return _turn(engine, sink, make(engine.options.alias, body), prompt_of(body), body)
    if path in _POOLED:
        task, missing, render = _POOLED[path]
        if engine.options.task != task:
            raise unsupported(f"{missing}. Start it with `--{missing.rsplit(' ', 1)[-1]}`")
        return Brief(engine, None, lambda _: sink.reply(200, render(engine.options.alias, body)))
    if path not in _TEXT:
        raise Refusal(404, "not_found_error", "File Not Found")
    sink.reply(200, orjson.dumps(_TEXT[path](body)))
    return None


def _turn(engine: Engine, sink: Sink, reply: Reply, prompt: bytes, body: dict[str, Any]) -> Job:
    options = engine.options
    choices = body.get("n") or 1
    if not 1 <= choices <= options.slots:
        raise invalid(f"Field 'n': Value must be between 1 <= value <= {options.slots}, but got {choices}")
    tokens = count_tokens(prompt)
    if tokens >= options.n_ctx:
        message = f"request ({tokens} tokens) exceeds the available context size ({options.n_ctx} tokens), "
        more = {"n_prompt_tokens": tokens, "n_ctx": options.n_ctx}
        raise Refusal(400, "exceed_context_size_error", message + "try increasing it", **more)
    return Generation(engine, sink, reply, prompt, body)


# ---- prompts


def _chat_prompt(body: dict[str, Any]) -> bytes:
    messages = body.get("messages")
    if not isinstance(messages, list):
        raise invalid("'messages' is required")
    return _render(messages)


def _responses_prompt(body: dict[str, Any]) -> bytes:
    given = body.get("input")
    if given is None:
        raise invalid("'input' is required")
    messages = given if isinstance(given, list) else [{"role": "user", "content": given}]
    system = [{"role": "system", "content": body["instructions"]}] if body.get("instructions") else []
    return _render([*system, *messages])


def _plain_prompt(body: dict[str, Any]) -> bytes:
    if "prompt" not in body:
        raise invalid("[json.exception.out_of_range.403] key 'prompt' not found")
    prompt = body["prompt"]
    return prompt.encode() if isinstance(prompt, str) else orjson.dumps(prompt)


def _infill_prompt(body: dict[str, Any]) -> bytes:
    return f"<pre>{body.get('input_prefix', '')}<suf>{body.get('input_suffix', '')}<mid>".encode()


def _render(messages: list[dict[str, Any]], *, is_answer_next: bool = True) -> bytes:
    """The chat template: what the assistant said continues exactly as it was generated."""
    parts = [f"<|{message.get('role')}|>{_text_of(message.get('content'))}\n" for message in messages]
    return ("".join(parts) + ("<|assistant|>" if is_answer_next else "")).encode()


def _text_of(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "".join(str(part.get("text", "")) for part in content or () if isinstance(part, dict))


# ---- what only tells


def _health(engine: Engine) -> tuple[bytes]:
    return (b'{"status":"ok"}',)


def _props(engine: Engine) -> tuple[bytes]:
    options = engine.options
    props = {
        "default_generation_settings": {"params": {}, "n_ctx": options.n_ctx},
        "total_slots": options.slots,
        "model_alias": options.alias,
        "model_path": options.model,
        "modalities": {"vision": False, "video": False, "audio": False},
        "endpoint_slots": options.has_slots,
        "endpoint_props": False,
        "endpoint_metrics": options.has_metrics,
        "chat_template": "",
        "bos_token": "",
        "eos_token": "",
        "build_info": BUILD,
    }
    return (orjson.dumps(props),)


def _slots(engine: Engine) -> tuple[bytes]:
    if not engine.options.has_slots:
        raise unsupported("slots endpoint. Start it with `--slots`")
    return (orjson.dumps([_describe(engine, slot) for slot in engine.slots]),)


def _describe(engine: Engine, slot: Slot) -> dict[str, Any]:
    is_processing = slot.job is not None
    state = {"id": slot.index, "n_ctx": engine.options.n_ctx, "speculative": False, "is_processing": is_processing}
    if (last := slot.last) is None:
        return state
    more = {"has_next_token": is_processing, "has_new_line": False, "n_remain": last.count - last.sent}
    return {
        **state,
        "id_task": 0,
        "n_prompt_tokens": count_tokens(slot.text) + (last.sent if is_processing else 0),
        "n_prompt_tokens_processed": last.processed_tokens(),
        "n_prompt_tokens_cache": last.cached_tokens,
        "params": {},
        "next_token": [{**more, "n_decoded": last.sent}],
    }


def _models(engine: Engine) -> tuple[bytes]:
    alias = engine.options.alias
    meta = {"n_ctx": engine.options.n_ctx, "n_ctx_train": 32768, "n_params": 0, "size": 0}
    data = {"id": alias, "aliases": [alias], "tags": [], "object": "model", "created": int(time.time())}
    return (orjson.dumps({"object": "list", "data": [{**data, "owned_by": "llamacpp", "meta": meta}]}),)


def _metrics(engine: Engine) -> tuple[bytes, str]:
    if not engine.options.has_metrics:
        raise unsupported("metrics endpoint. Start it with `--metrics`")
    values = {
        "prompt_tokens_total": engine.totals["prompt"],
        "prompt_tokens_cached_total": engine.totals["cached"],
        "tokens_predicted_total": engine.totals["predicted"],
        "requests_processing": sum(slot.job is not None for slot in engine.slots),
        "requests_deferred": len(engine.deferred),
    }
    kinds = {name: "counter" if name.endswith("_total") else "gauge" for name in values}
    lines = [f"# TYPE llamacpp:{name} {kinds[name]}\nllamacpp:{name} {value}\n" for name, value in values.items()]
    return "".join(lines).encode(), _METRICS_TYPE


def _tokenize(body: dict[str, Any]) -> dict[str, Any]:
    return {"tokens": to_tokens(str(body.get("content", "")).encode())}


def _detokenize(body: dict[str, Any]) -> dict[str, Any]:
    return {"content": to_text(body.get("tokens") or []).decode("utf-8", "replace")}


def _apply_template(body: dict[str, Any]) -> dict[str, Any]:
    messages = body.get("messages")
    if not isinstance(messages, list):
        raise invalid("'messages' is required")
    return {"prompt": _render(messages, is_answer_next=body.get("add_generation_prompt", True)).decode()}


def _count(body: dict[str, Any]) -> dict[str, Any]:
    return {"input_tokens": count_tokens(_chat_prompt(body))}


_GET: dict[str, Callable[[Engine], tuple[bytes] | tuple[bytes, str]]] = {
    **dict.fromkeys(("/health", "/v1/health"), _health),
    **dict.fromkeys(("/models", "/v1/models"), _models),
    "/props": _props,
    "/slots": _slots,
    "/metrics": _metrics,
}
_TURNS: dict[str, tuple[Callable[[str, dict[str, Any]], Reply], Callable[[dict[str, Any]], bytes]]] = {
    **dict.fromkeys(("/v1/chat/completions", "/chat/completions"), (ChatReply, _chat_prompt)),
    **dict.fromkeys(("/v1/responses", "/responses"), (ResponsesReply, _responses_prompt)),
    **dict.fromkeys(("/completion", "/completions"), (LegacyReply, _plain_prompt)),
    "/v1/completions": (CompletionReply, _plain_prompt),
    "/infill": (LegacyReply, _infill_prompt),
}
_POOLED: dict[str, tuple[str, str, Callable[[str, dict[str, Any]], bytes]]] = {
    **dict.fromkeys(("/v1/embeddings", "/embeddings"), ("embedding", "embeddings", embeddings_body)),
    **dict.fromkeys(("/v1/rerank", "/rerank", "/v1/reranking"), ("rerank", "reranking", rerank_body)),
}
_TEXT: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "/tokenize": _tokenize,
    "/detokenize": _detokenize,
    "/apply-template": _apply_template,
    **dict.fromkeys(("/v1/messages/count_tokens", "/v1/chat/completions/input_tokens"), _count),
}
