"""What is refused before a handler sees it: large bodies and callers without a key."""

from __future__ import annotations

import hmac
import json
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from tastemaker.serving.metering import Meters
from tastemaker.serving.settings import ServeSettings

__all__ = ["Gate", "fault"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_OPEN = ("/health", "/ready")  # asked by machines that hold no key


def fault(code: str, message: str) -> dict[str, Any]:
    """The body of every answer but a good one."""
    return {"error": {"code": code, "message": message}}


class Gate:
    """ASGI middleware: limits of the body, API keys, and the count of requests.

    Args:
        app: what is behind the gate.
        settings: of the service.
        meters: what counts.
    """

    def __init__(self, app: Any, settings: ServeSettings, meters: Meters) -> None:
        self._app, self._settings, self._meters = app, settings, meters
        self._keys = [key.encode() for key in settings.api_keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500

        async def watched(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._checked(scope, receive, watched)
        finally:
            route = scope.get("route")
            path = getattr(route, "path", None) or "other"
            self._meters.observe(path, status, time.perf_counter() - began)

    async def _checked(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        if self._keys and scope["path"] not in _OPEN and not self._has_key(headers):
            message = "send one of the server's keys in the header x-api-key"
            await _refuse(send, 401, fault("no_key", message))
            return
        limit = self._settings.max_body_bytes
        message = f"a request may have {limit:,} bytes; send less, or raise max_body_bytes"
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > limit:
            await _refuse(send, 413, fault("too_large", message))
            return
        body, more = bytearray(), True
        while more:  # read here, so that a body sent in pieces has the same limit
            part = await receive()
            if part["type"] == "http.disconnect":
                return
            body += part.get("body", b"")
            more = part.get("more_body", False)
            if len(body) > limit:
                await _refuse(send, 413, fault("too_large", message))
                return
        whole: list[MutableMapping[str, Any]] = [{"type": "http.request", "body": bytes(body)}]

        async def again() -> MutableMapping[str, Any]:
            return whole.pop() if whole else await receive()

        await self._app(scope, again, send)

    def _has_key(self, headers: dict[bytes, bytes]) -> bool:
        """Whether the header holds a key; takes as long for a wrong key as for a right one."""
        given = headers.get(b"x-api-key", b"")
        matches = [hmac.compare_digest(given, key) for key in self._keys]
        return any(matches)


async def _refuse(send: Send, status: int, body: dict[str, Any]) -> None:
    content = json.dumps(body).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(content))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
