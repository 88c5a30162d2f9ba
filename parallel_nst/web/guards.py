"""What every request meets first: whom it is addressed to, where it comes from, who sends it, and how large it is.

A page elsewhere must not drive a server on its reader's machine. Its requests come with a foreign Origin; and where it
has bent a name of its own to 127.0.0.1, with a foreign Host. Both are refused, whatever is asked for.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import json
import secrets
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie

from fastapi import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from parallel_nst.web.settings import PictureSettings

COOKIE = "pnst_session"
OPEN = ("/", "/page/", "/healthz", "/readyz", "/v1/session")  # without a token; what ends in / stands for all below
FIRST_BYTES, WHOLE_BODY = 20.0, 300.0  # seconds: from one part of a body to the next, and for all of it
MOST_HEADERS = 1 << 14  # bytes

HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}


@dataclass(frozen=True)
class Refusal:
    """Why a request goes no further."""

    status: int
    reason: str


class Guards:
    """Around the application."""

    def __init__(self, app: ASGIApp, settings: PictureSettings) -> None:
        self._app, self._settings = app, settings
        self._session = session_of(settings.token)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        refusal = self.refusal(scope)
        if refusal is not None:
            await refuse(refusal, with_headers(send))
            return
        body = Body(receive, self._settings.max_bytes)
        await self._app(scope, body, with_headers(send))

    def refusal(self, scope: Scope) -> Refusal | None:
        """None for a request that may go on."""
        headers = {key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]}
        if sum(len(key) + len(value) for key, value in headers.items()) > MOST_HEADERS:
            return Refusal(431, "the headers are too long")
        host = headers.get("host", "")
        if not self.is_own(host):
            return Refusal(403, f"this server is not called {host[:80]!r}; start it with --allow-hosts for that name")
        if not same_origin(headers, scope["scheme"], host):
            return Refusal(403, "pages of other addresses may not use this server")
        if self._settings.token and not is_open(scope["path"]) and not self.is_known(headers):
            return Refusal(401, "give the server's token: Authorization: Bearer TOKEN")
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit()):
            return Refusal(400, "Content-Length is no number")
        if int(length[:20]) > self._settings.max_bytes:
            return Refusal(413, too_large(self._settings.max_bytes))
        return None

    def is_own(self, host: str) -> bool:
        """Whether a Host header names this server. Where it listens everywhere, any address in numbers does: only names
        can be bent to it."""
        name = host_name(host)
        return name in self._settings.names or (self._settings.anywhere and is_address(name))

    def is_known(self, headers: dict[str, str]) -> bool:
        """Whether a request carries the token, or the cookie that it was exchanged for."""
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and same_text(given.strip(), self._settings.token):
            return True
        return same_text(cookie_of(headers.get("cookie", "")), self._session)


class Body:
    """Receives a request's body, in good time and no more of it than is allowed."""

    def __init__(self, receive: Receive, most: int) -> None:
        self._receive, self._most = receive, most
        self._got = 0
        self._until: float | None = None
        self._whole = False

    async def __call__(self) -> Message:
        if self._whole:  # what comes now is that the caller has gone
            return await self._receive()
        now = asyncio.get_running_loop().time()
        self._until = self._until or now + WHOLE_BODY
        try:
            message = await asyncio.wait_for(self._receive(), min(FIRST_BYTES, max(0.0, self._until - now)))
        except asyncio.TimeoutError:
            raise HTTPException(408, "the request came too slowly") from None
        if message["type"] == "http.request":
            self._got += len(message.get("body", b""))
            self._whole = not message.get("more_body", False)
            if self._got > self._most:
                raise HTTPException(413, too_large(self._most))
        return message


def too_large(most: int) -> str:
    return f"the request is larger than {most / 1e6:g} MB; send fewer or smaller pictures"


async def refuse(refusal: Refusal, send: Send) -> None:
    """Answer with the reason, and let the connection go."""
    body = json.dumps({"error": refusal.reason}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers += [(b"connection", b"close")]
    if refusal.status == 401:
        headers += [(b"www-authenticate", b"Bearer")]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def with_headers(send: Send) -> Send:
    """Put `HEADERS` on every answer that does not have its own."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            there = {key.lower() for key, _ in message.get("headers", [])}
            more = [(key.encode(), text.encode()) for key, text in HEADERS.items() if key.encode() not in there]
            message = {**message, "headers": [*message.get("headers", []), *more]}
        await send(message)

    return sending


def host_name(host: str) -> str:
    """Of a Host header, without the port, in lower case."""
    name = host.strip().lower()
    if name.startswith("["):
        return name[1:].partition("]")[0]
    return name.rpartition(":")[0] if name.count(":") == 1 else name


def is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def same_origin(headers: dict[str, str], scheme: str, host: str) -> bool:
    """Whether a request comes from this server's own page, or from no page at all. A proxy that ends TLS in front says
    https where the server hears http."""
    site = headers.get("sec-fetch-site", "none")
    if site not in ("none", "same-origin") and headers.get("sec-fetch-mode") != "navigate":
        return False
    origin = headers.get("origin")
    return origin is None or origin.lower() in {f"{scheme}://{host}".lower(), f"https://{host}".lower()}


def is_open(path: str) -> bool:
    """Whether a path is there for those without a token too."""
    return any(path == place or (place.endswith("/") and place != "/" and path.startswith(place)) for place in OPEN)


def session_of(token: str) -> str:
    """What a page keeps in place of the token, so that the token itself is in no cookie."""
    return hashlib.sha256(b"parallel_nst session " + token.encode()).hexdigest() if token else ""


def cookie_of(text: str) -> str:
    """The session of a Cookie header, or nothing."""
    try:
        found = SimpleCookie(text).get(COOKIE)
    except CookieError:
        return ""
    return found.value if found else ""


def same_text(one: str, other: str) -> bool:
    """In the same time wherever they differ; nothing equals nothing."""
    return bool(other) and secrets.compare_digest(one.encode(), other.encode())
