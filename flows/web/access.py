"""Who may use the pages and the API: host check, token, protection against requests from other sites.

The rules, as ASGI middleware around an application:

* The ``Host`` header must name this server. Else a web site could reach a server on loopback through a DNS name of its
  own that resolves to 127.0.0.1 (DNS rebinding).
* With a token, each request must have it: as ``Authorization: Bearer <token>``, or as the cookie that a visit of
  ``/?token=<token>`` sets. Without a token, the server must be on loopback (`access_rules` enforces it).
* A browser's request that changes something must come from a page of this server: ``Sec-Fetch-Site`` or ``Origin`` say
  so (OWASP, Cross-Site Request Forgery Prevention Cheat Sheet, "Fetch Metadata"). Other clients send neither header.

Responses get a Content-Security-Policy that loads nothing from elsewhere and runs no inline script.
"""

import hmac
import ipaddress
import os
import secrets
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from atlas_model.core.errors import InputError

VARIABLE = "ATLAS_TOKEN"
SHORTEST_TOKEN = 16  # characters
COOKIE = "atlas_token"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "manifest-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


Refuse = Callable[[int, str, dict[str, str] | None], Response]
"""Makes the response to a refused request, of its status, the reason, and further headers."""


@dataclass(frozen=True)
class AccessRules:
    """The rules of one server.

    Attributes:
        hosts: the names and addresses that the ``Host`` header may have, without the port, in lower case.
        token: the token that each request must have; None: no token.
        token_is_new: the token was generated for this server, so that only its output can tell it.
        public: paths that need no token, such as those of health checks.
        any_address: an IP address as ``Host`` is accepted. A DNS rebinding attack needs a name.
    """

    hosts: frozenset[str]
    token: str | None = None
    token_is_new: bool = False
    public: frozenset[str] = frozenset()
    any_address: bool = False

    def allows_host(self, header: str) -> bool:
        """Whether the value of a ``Host`` header names this server."""
        host = host_of(header)
        return host in self.hosts or (self.any_address and _is_address(host))


def access_rules(host: str, *, allowed_hosts: Iterable[str] = (), public: Iterable[str] = ()) -> AccessRules:
    """The rules of a server that listens on ``host``.

    On loopback there is no token unless the environment variable ``ATLAS_TOKEN`` sets one. Elsewhere a random token is
    made if it is not set.

    Args:
        host: the address to listen on.
        allowed_hosts: further names by which clients reach the server, such as that of a reverse proxy.
        public: paths that need no token.

    Raises:
        InputError: the token is too short.
    """
    token = os.environ.get(VARIABLE) or None
    if token is not None and (len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable()):
        raise InputError(
            f"{VARIABLE}: expected at least {SHORTEST_TOKEN} printable ASCII characters, got {len(token)} "
            "characters. Make one: openssl rand -hex 24"
        )
    names = {name.lower() for name in allowed_hosts}
    if is_loopback(host):
        return AccessRules(frozenset(LOOPBACK_NAMES | names), token, public=frozenset(public))
    names |= {host.lower(), "localhost", socket.gethostname().lower(), socket.getfqdn().lower()}
    return AccessRules(
        frozenset(names),
        token or secrets.token_urlsafe(),
        token_is_new=token is None,
        public=frozenset(public),
        any_address=True,
    )


def is_loopback(host: str) -> bool:
    """Whether only programs on this machine reach a server on ``host``."""
    return host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)


def host_of(header: str) -> str:
    """The host in the value of a ``Host`` header, in lower case, without the port; empty if it has none."""
    try:
        return urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return ""


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


class AccessMiddleware:
    """Applies `AccessRules` to the HTTP requests of an application; it serves no other protocol."""

    def __init__(self, app: ASGIApp, rules: AccessRules, refuse: "Refuse | None" = None) -> None:
        self.app = app
        self.rules = rules
        self._refuse = refuse or plain_refusal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request, or pass it on to the application."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        refusal = self._refusal(scope)
        await (refusal or self.app)(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> Response | None:
        """The answer to a request that the rules refuse; None if they allow it."""
        headers, rules = Headers(scope=scope), self.rules
        host = headers.get("host", "")
        if not rules.allows_host(host):
            return self._refuse(421, f"expected a Host header that names this server, got {host_of(host)!r}", None)
        if scope["method"] not in SAFE_METHODS and not _is_same_origin(headers):
            return self._refuse(403, "a page of another site sent this request", None)
        if rules.token is None or scope["path"] in rules.public:
            return None
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        given = dict(query).get("token")
        if given is not None and scope["method"] == "GET" and _equal(given, rules.token):
            return _remember(scope, rules.token, [item for item in query if item[0] != "token"])
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        cookie = cookie_parser(headers.get("cookie", "")).get(COOKIE, "")
        if (scheme.lower() == "bearer" and _equal(bearer.strip(), rules.token)) or _equal(cookie, rules.token):
            return None
        return self._refuse(
            401,
            f"expected the token of this server (the value of {VARIABLE}, or the one printed at its start): as "
            "Authorization: Bearer <token>, or once as /?token=<token> in a browser",
            {"WWW-Authenticate": "Bearer"},
        )


def _is_same_origin(headers: Headers) -> bool:
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site in {"same-origin", "none"}  # none: the user's own action
    origin = headers.get("origin")
    return origin is None or urlsplit(origin).netloc.lower() == headers.get("host", "").lower()


def _equal(given: str, token: str) -> bool:
    return hmac.compare_digest(given.encode(), token.encode())


def _remember(scope: Scope, token: str, query: list[tuple[str, str]]) -> Response:
    """Set the cookie, and redirect to the same page without the token, which would stay in the browser's history."""
    path = "/" + scope["path"].lstrip("/")  # //host would be another site
    response = RedirectResponse(path + (f"?{urlencode(query)}" if query else ""), status_code=303)
    response.set_cookie(COOKIE, token, httponly=True, samesite="strict", secure=scope["scheme"] == "https")
    return response


def plain_refusal(status: int, reason: str, headers: dict[str, str] | None = None) -> Response:
    """A refusal as text."""
    return PlainTextResponse(reason + "\n", status_code=status, headers=headers)
