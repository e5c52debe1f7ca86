"""Health, and the account: password and tokens."""

from typing import Any

from falcon.asgi import Request, Response

from portal.accounts import AccountError
from portal.api.tokens import refuse_service
from portal.bodies import Form
from portal.gate import identity, session_form
from portal.health import look
from portal.limits import count_login
from portal.pages.page import Page
from portal.problems import Problem, unprocessable
from portal.queries import EventQuery

#: Documents that are set aside, of those that the page names.
SHOWN_ASIDE = 50


class HealthPage(Page):
    section = "health"

    async def on_get(self, req: Request, resp: Response) -> None:
        def build() -> dict[str, Any]:
            refused = self.parts.lists.events(EventQuery(verdict="bad,void", limit=10))
            aside = self.parts.views.all_set_aside(SHOWN_ASIDE)
            return {"health": look(self.parts), "refused": refused, "aside": aside, "as_of": refused.as_of}

        await self.show(req, resp, "health.html", build)


class AccountPage(Page):
    section = "account"

    async def on_get(self, req: Request, resp: Response) -> None:
        await self._show(req, resp)

    async def on_post(self, req: Request, resp: Response) -> None:
        form = await session_form(req)
        refuse_service(req)
        doing = {"password": self._password, "token": self._token, "revoke": self._revoke}.get(form.get("do", ""))
        if doing is None:
            raise unprocessable(f"the form asks for {form.get('do')!r}, which this page cannot do", "do")
        try:
            done = await self.parts.offload(doing, req, form)
        except (AccountError, Problem) as error:
            await self._show(req, resp, problem=str(error), about=form["do"], status=422)
            return
        await self._show(req, resp, **done)

    def _password(self, req: Request, form: Form) -> dict[str, Any]:
        who = identity(req)
        count_login(self.parts.limiter, who.account, req.remote_addr)
        if not self.parts.accounts.check_password(who.account, form.get("old", "")):
            raise AccountError("the present password is another one")
        if form.get("new") != form.get("again"):
            raise AccountError("the new password and its repetition differ")
        self.parts.accounts.set_password(who.account, form.get("new", ""), keep_session=who.key)
        return {"done": "The password is changed; all other sessions of this account have ended."}

    def _token(self, req: Request, form: Form) -> dict[str, Any]:
        account = identity(req).account
        secret = self.parts.accounts.make_token(account, form.get("name", ""), form.get("service", "").strip())
        return {"secret": secret}

    def _revoke(self, req: Request, form: Form) -> dict[str, Any]:
        if not self.parts.accounts.revoke_token(identity(req).account, form.get("id", "")):
            raise AccountError("there is no such token any more")
        return {"done": "The token is revoked."}

    async def _show(self, req: Request, resp: Response, *, status: int = 200, **context: Any) -> None:
        account = identity(req).account

        def build() -> dict[str, Any]:
            return {**context, "tokens": self.parts.accounts.tokens(account), "account": account, "as_of": None}

        await self.show(req, resp, "account.html", build, status=status)
