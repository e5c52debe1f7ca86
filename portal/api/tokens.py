"""`/api/v1/login` and `/api/v1/tokens`: tokens by which programs come in."""

from typing import Annotated

from falcon.asgi import Request, Response
from msgspec import Meta, Struct

from events.names import SERVICE_PATTERN
from portal.accounts import MAX_NAME, MAX_PASSWORD, AccountError, TokenInfo
from portal.api.shapes import NewToken
from portal.bodies import read_json
from portal.gate import identity
from portal.limits import LOGIN, count_login
from portal.openapi import operation
from portal.parts import Parts
from portal.problems import Problem, not_found, unprocessable

TokenName = Annotated[str, Meta(min_length=1, max_length=MAX_NAME, description="what the token is for")]


class Credentials(Struct, kw_only=True, forbid_unknown_fields=True):
    account: Annotated[str, Meta(min_length=1, max_length=100)]
    password: Annotated[str, Meta(min_length=1, max_length=MAX_PASSWORD)]
    token_name: TokenName = "login"  # noqa: S105  # a name, not a secret


class TokenRequest(Struct, kw_only=True, forbid_unknown_fields=True):
    """With `service`, the token speaks as `service:<name>`, for the facts of that service."""

    name: TokenName
    service: Annotated[str, Meta(pattern=SERVICE_PATTERN)] | None = None


class TokenList(Struct, kw_only=True):
    items: list[TokenInfo]


class Login:
    """Needs no login: this is it."""

    public = True

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    @operation("Make a token by account and password", body=Credentials, answers={201: NewToken}, problems=[401, 429])
    async def on_post(self, req: Request, resp: Response) -> None:
        given = await read_json(req, Credentials)
        await self._parts.offload(log_in, self._parts, given.account, given.password, req.remote_addr)
        try:
            token = await self._parts.offload(self._parts.accounts.make_token, given.account, given.token_name)
        except AccountError as error:
            raise unprocessable(str(error), "token_name") from None
        resp.media = NewToken(token=token, actor=f"user:{given.account}")
        resp.status = 201


def log_in(parts: Parts, account: str, password: str, address: str) -> None:
    """Checks a password, within limits; blocking. Raises `Problem`: 401, 429."""
    count_login(parts.limiter, account, address)
    if not parts.accounts.check_password(account, password):
        raise Problem(401, "wrong-login", "there is no such account with this password", field="password")
    parts.limiter.forget(LOGIN, account, address)


class Tokens:
    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    @operation("List your tokens", answers={200: TokenList})
    async def on_get(self, req: Request, resp: Response) -> None:
        account = identity(req).account
        resp.media = TokenList(items=await self._parts.offload(self._parts.accounts.tokens, account))

    @operation("Make a token", body=TokenRequest, answers={201: NewToken})
    async def on_post(self, req: Request, resp: Response) -> None:
        new = await read_json(req, TokenRequest)
        who = identity(req)
        refuse_service(req)
        accounts = self._parts.accounts
        try:
            token = await self._parts.offload(accounts.make_token, who.account, new.name, new.service or "")
        except AccountError as error:
            raise unprocessable(str(error), "name") from None
        actor = f"service:{new.service}" if new.service else f"user:{who.account}"
        resp.media = NewToken(token=token, actor=actor)
        resp.status = 201


class Token:
    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    @operation("Revoke a token", answers={204: None})
    async def on_delete(self, req: Request, resp: Response, id: str) -> None:
        refuse_service(req)
        if not await self._parts.offload(self._parts.accounts.revoke_token, identity(req).account, id):
            raise not_found("token", id)
        resp.status = 204


def refuse_service(req: Request) -> None:
    """A service's token gives no further rights. Raises `Problem` 403."""
    if identity(req).is_service:
        raise Problem(403, "not-allowed", "tokens are for people to make; this is the token of a service")
