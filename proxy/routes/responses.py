"""OpenAI's Responses and Conversations: histories kept by the gateway. Every answer is a point to go on from."""

from __future__ import annotations

from functools import partial

from hugind.proxy.dialects.openai import ResponsesAssembler
from hugind.proxy.gateway import Handler
from hugind.proxy.routes.openai import generate, prepare_responses
from hugind.proxy.sessions.talks import responses_talk

ROUTES: dict[str, Handler] = {
    "/v1/responses": partial(
        generate, assembler=lambda _: ResponsesAssembler(), make_talk=responses_talk, prepare=prepare_responses
    ),
}
