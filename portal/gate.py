"""The gate: nobody comes in without a login, unless a resource says `public = True`.

Browsers have a session cookie, and every request of theirs that changes something carries the session's CSRF token
(a form's field `csrf`, or the header `X-CSRF-Token`). Programs have a bearer token.
"""

import hmac
import re
from typing import Any, cast
from urllib.parse import quote

import falcon
from falcon.asgi import Request, Response

from portal.accounts import Accounts, Identity, csrf_token
from portal.bodies import Form, read_form
from portal.offload import Offload
from portal.problems import Problem

COOKIE = "fleetbus_session"
#: Stands in for a session on the login page, so that its form has a CSRF token, too.
GUEST_COOKIE = "fleetbus_guest"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
API = "/api/"

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


class Gate:
    """Middleware."""

    def __init__(self, accounts: Accounts, offload: Offload) -> None:
        self._accounts = accounts
        self._offload = offload

    async def process_resource(self, req: Request, resp: Response, resource: object, params: dict[str, Any]) -> None:
        who = req.context.identity = await self._identify(req)
        if getattr(resource, "public", False):
            return
        if who is None:
            _refuse(req)
        elif who.csrf and req.path.startswith(API) and req.method not in SAFE_METHODS:
            check_csrf(who.csrf, req.get_header("X-CSRF-Token") or "")

    async def process_response(self, req: Request, resp: Response, resource: object, succeeded: bool) -> None:
        for name, value in HEADERS.items():
            resp.set_header(name, value)
        if not req.path.startswith("/static/") and resp.get_header("Cache-Control") is None:
            resp.set_header("Cache-Control", "no-store")

    async def _identify(self, req: Request) -> Identity | None:
        scheme, _, secret = (req.auth or "").partition(" ")
        if scheme.lower() == "bearer":
            return await self._offload(self._accounts.by_token, secret.strip())
        secret = cookie(req, COOKIE)
        return await self._offload(self._accounts.by_session, secret) if secret else None


def _refuse(req: Request) -> None:
    if req.path.startswith(API) or req.method not in SAFE_METHODS:
        raise Problem(
            401,
            "not-logged-in",
            "send `Authorization: Bearer TOKEN`; `fleetbus login` or the account page makes a token",
            headers={"WWW-Authenticate": 'Bearer realm="fleetbus"'},
        )
    raise falcon.HTTPSeeOther(f"/login?next={quote(req.relative_uri, safe='')}")


def identity(req: Request) -> Identity:
    """Who sends the request; the gate made sure that there is somebody."""
    return cast("Identity", req.context.identity)


def cookie(req: Request, name: str) -> str:
    values = req.get_cookie_values(name)
    return values[0] if values and re.fullmatch(r"[A-Za-z0-9_-]{20,100}", values[0]) else ""


def set_cookie(req: Request, resp: Response, name: str, value: str, seconds: int | None) -> None:
    resp.set_cookie(
        name, value, max_age=seconds, path="/", secure=req.scheme == "https", http_only=True, same_site="Lax"
    )


def drop_cookie(resp: Response, name: str) -> None:
    resp.unset_cookie(name, path="/", same_site="Lax")


def check_csrf(wanted: str, given: str) -> None:
    """Raises `Problem` 403 when a form does not come from a page of this session."""
    if not wanted or not hmac.compare_digest(wanted.encode(), given.encode()):
        raise Problem(
            403, "form-out-of-date", "the page is from an earlier session; load it again and send the form anew"
        )


async def session_form(req: Request) -> Form:
    """The form of a page, sent by a browser with a session."""
    form = await read_form(req)
    check_csrf(identity(req).csrf, form.get("csrf", ""))
    return form


async def guest_form(req: Request) -> Form:
    """The form of a page for those who are not logged in."""
    form = await read_form(req)
    guest = cookie(req, GUEST_COOKIE)
    check_csrf(csrf_token(guest) if guest else "", form.get("csrf", ""))
    return form
