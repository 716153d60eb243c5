"""Ollama's routes that take in the files of models yet to be made."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request
from fastapi.responses import Response
from starlette.requests import ClientDisconnect

from hugind.proxy.disconnect import connection_of
from hugind.proxy.errors import ApiError, ClientGone
from hugind.proxy.gateway import Gateway
from hugind.supervisor import tasks
from hugind.supervisor.models.blobs import BlobError, Blobs, Upload

_WRITTEN_AT_ONCE = 1 << 20


def blobs_router(gateway: Gateway) -> APIRouter:
    """What is sent is under its SHA-256, and seen by whoever may make models."""
    router = APIRouter()
    blobs = Blobs(gateway.home)

    @router.head("/api/blobs/{digest}")
    async def has_blob(digest: str) -> Response:
        """Whether it is here."""
        if await _find(blobs, digest):
            return Response(status_code=200)
        raise ApiError(404, "blob not found")

    @router.post("/api/blobs/{digest}")
    async def take_blob(digest: str, request: Request) -> Response:
        """Take in a file of any size that fits on the disk, unless it is here."""
        if await _find(blobs, digest):
            return Response(status_code=200)
        await asyncio.to_thread(blobs.prune)
        room = await asyncio.to_thread(blobs.room_bytes)
        declared = request.headers.get("content-length", "")
        if declared.isdigit() and int(declared) > room:
            raise _too_large(room)
        if connection := connection_of(request.scope):
            connection.expect_long_body()
        try:
            with blobs.upload(digest) as upload:
                await _receive(request, upload, room)
                await tasks.finish(asyncio.to_thread(upload.finish), "finish a blob")
        except BlobError as error:
            raise ApiError(400, error.message) from None
        except OSError as error:
            raise ApiError(507, f"the file cannot be written: {error.strerror or error}") from error
        return Response(status_code=201)

    return router


async def _find(blobs: Blobs, digest: str) -> bool:
    try:
        return await asyncio.to_thread(blobs.find, digest) is not None
    except BlobError as error:
        raise ApiError(400, error.message, param="digest") from None


async def _receive(request: Request, upload: Upload, room: int) -> None:
    """The whole body. A write that has begun is waited for, whatever happens: its file must not be closed under it."""
    received, waiting = 0, bytearray()
    try:
        async for chunk in request.stream():
            received += len(chunk)
            if received > room:
                raise _too_large(room)
            waiting += chunk
            if len(waiting) >= _WRITTEN_AT_ONCE or not chunk:  # an empty one is the end
                await tasks.finish(asyncio.to_thread(upload.write, bytes(waiting)), "write a blob")
                waiting.clear()
    except ClientDisconnect:
        raise ClientGone from None


def _too_large(room: int) -> ApiError:
    return ApiError(413, f"there is room for {room // 1_000_000:,} MB", code="request_too_large")
