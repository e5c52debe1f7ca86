"""Reading requests: JSON and text bodies, forms, parameters. What does not fit is a `Problem`."""

from typing import Any, TypeVar
from urllib.parse import parse_qsl

import msgspec
from falcon.asgi import Request

from portal.problems import Problem, bad_request, unprocessable

S = TypeVar("S", bound=msgspec.Struct)

#: Bytes of a body: a script of 256,000 characters fits, escaped.
MAX_BODY = 2_000_000
#: Fields of a form.
MAX_FIELDS = 500


async def read_body(req: Request, limit: int = MAX_BODY) -> bytes:
    """The whole body. Raises `Problem` 413."""
    if (req.content_length or 0) > limit:
        raise _too_large(limit)
    parts, size = [], 0
    async for part in req.stream:
        size += len(part)
        if size > limit:
            raise _too_large(limit)
        parts.append(part)
    return b"".join(parts)


def _too_large(limit: int) -> Problem:
    return Problem(413, "too-large", f"the body is larger than {limit:,} bytes, which is the most that is taken")


async def read_json(req: Request, shape: type[S]) -> S:
    """The body as `shape`. Raises `Problem`: 415 for another content type, 400 for no JSON, 422 for another shape."""
    content_type = (req.content_type or "application/json").partition(";")[0].strip().lower()
    if content_type != "application/json" and not content_type.endswith("+json"):
        raise Problem(415, "unsupported-media-type", f"send application/json, not {content_type[:100]}")
    body = await read_body(req)
    if not body.strip():
        raise bad_request("the body is empty; it must be a JSON object")
    try:
        plain = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise bad_request(f"the body is no JSON: {error}") from None
    return to_shape(plain, shape)


def to_shape(plain: Any, shape: type[S]) -> S:
    """JSON values as `shape`. Raises `Problem` 422 that names the field."""
    try:
        return msgspec.convert(plain, shape)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `")
        raise unprocessable(_with_fields(message, shape), path.rstrip("`").removeprefix("$").lstrip(".")) from None
    except (RecursionError, OverflowError) as error:
        raise unprocessable(f"the body cannot be read: {error}") from None


def _with_fields(message: str, shape: type[msgspec.Struct]) -> str:
    if "unknown field" not in message:
        return message
    return f"{message}; there are: {', '.join(shape.__struct_encode_fields__)}"


def read_query(req: Request, shape: type[S]) -> S:
    """The query string as `shape`; an empty value means not given, a repeated one is joined by commas.

    Raises `Problem` 400 that names the parameter.
    """
    given = {name: ",".join(value) if isinstance(value, list) else value for name, value in req.params.items()}
    plain = {name: value for name, value in given.items() if value != ""}
    if unknown := sorted(plain.keys() - set(shape.__struct_encode_fields__)):
        known = ", ".join(shape.__struct_encode_fields__) or "none"
        raise bad_request(f"there is no parameter {unknown[0][:80]!r}; there are: {known}", unknown[0][:80])
    try:
        return msgspec.convert(plain, shape, strict=False)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `")
        raise bad_request(message, path.rstrip("`").removeprefix("$").lstrip(".")) from None


class Form(dict[str, str]):
    """The fields of a form; of equal names the last. `all` has every one."""

    def __init__(self, pairs: list[tuple[str, str]]) -> None:
        super().__init__(pairs)
        self._pairs = pairs

    def all(self, name: str) -> list[str]:
        return [value for key, value in self._pairs if key == name]


async def read_form(req: Request) -> Form:
    """A form that a page sent. Raises `Problem`: 415, 413, 400."""
    content_type = (req.content_type or "").partition(";")[0].strip().lower()
    if content_type != "application/x-www-form-urlencoded":
        raise Problem(415, "unsupported-media-type", "send application/x-www-form-urlencoded, as forms do")
    body = await read_body(req)
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=MAX_FIELDS, errors="strict")
    except ValueError as error:
        raise bad_request(f"the form cannot be read: {error}") from None
    return Form(pairs)
