"""Coming in and going out."""

import secrets
from typing import Any

import falcon
from falcon.asgi import Request, Response

from portal.accounts import csrf_token
from portal.api.tokens import log_in
from portal.gate import (
    COOKIE,
    GUEST_COOKIE,
    cookie,
    drop_cookie,
    guest_form,
    identity,
    session_form,
    set_cookie,
)
from portal.pages.page import Page, render, safe_path
from portal.problems import Problem


class LoginPage(Page):
    public = True

    async def on_get(self, req: Request, resp: Response) -> None:
        if req.context.identity is not None:
            raise falcon.HTTPSeeOther(safe_path(req.get_param("next")))
        self._form(req, resp, next=safe_path(req.get_param("next")))

    async def on_post(self, req: Request, resp: Response) -> None:
        form = await guest_form(req)
        account, target = form.get("account", "").strip(), safe_path(form.get("next"))
        try:
            await self.parts.offload(log_in, self.parts, account, form.get("password", ""), req.remote_addr)
        except Problem as problem:
            self._form(req, resp, next=target, account=account, problem=problem.detail)
            resp.status = problem.status
            return
        session = await self.parts.offload(self.parts.accounts.open_session, account)
        set_cookie(req, resp, COOKIE, session.secret, session.seconds)
        drop_cookie(resp, GUEST_COOKIE)
        self.go(resp, target)

    def _form(self, req: Request, resp: Response, **context: Any) -> None:
        guest = cookie(req, GUEST_COOKIE)
        if not guest:
            guest = secrets.token_urlsafe(32)
            set_cookie(req, resp, GUEST_COOKIE, guest, None)
        resp.text = render("login.html", csrf=csrf_token(guest), who=None, path="/login", section="", **context)
        resp.content_type = falcon.MEDIA_HTML


class LogoutPage(Page):
    async def on_post(self, req: Request, resp: Response) -> None:
        await session_form(req)
        await self.parts.offload(self.parts.accounts.close_session, identity(req).key)
        drop_cookie(resp, COOKIE)
        self.go(resp, "/login")
