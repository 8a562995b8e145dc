"""Protect every response: restrict the hosts that may request it, and what a browser may do with it."""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def guarded(app: ASGIApp) -> ASGIApp:
    """Restrict the app to this machine: another Host (DNS rebinding) gets 400.

    Add the headers to all responses.
    """
    local = TrustedHostMiddleware(app, allowed_hosts=["127.0.0.1", "localhost"], www_redirect=False)

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                if scope["path"].startswith("/review"):
                    headers["Referrer-Policy"] = "same-origin"  # otherwise the Origin of a form would be null
                if not scope["path"].startswith("/static/"):
                    headers["Cache-Control"] = "no-store"  # the lake may change between two requests
            await send(message)

        await local(scope, receive, send_with_headers)

    return answer


def same_origin(request: Request) -> bool:
    """Return whether a page of this server sent the request, as every browser reports for a form."""
    origin = urlsplit(request.headers.get("origin", ""))
    return origin.scheme in ("http", "https") and origin.netloc == request.headers.get("host")
