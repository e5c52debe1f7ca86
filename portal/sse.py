"""Server-sent events (WHATWG HTML, section 9.2), with bytes that are made once for all watchers."""

from falcon.asgi import SSEvent
from falcon.media import BaseHandler

#: Seconds without an event after which a line is sent, so that dead connections are found.
KEEP_ALIVE_SECONDS = 15.0


class Frames(SSEvent):
    """Whole messages, as they are sent (`portal.feed`)."""

    def __init__(self, raw: bytes) -> None:
        super().__init__()
        self._raw = raw

    def serialize(self, handler: BaseHandler | None = None) -> bytes:
        return self._raw


class Frame(SSEvent):
    """One message. `data` must be free of line ends, as JSON on one line is."""

    def __init__(self, data: bytes, *, id: str, event: str = "") -> None:
        super().__init__()
        named = f"event: {event}\n" if event else ""
        self._raw = f"{named}id: {id}\ndata: ".encode() + data + b"\n\n"

    def serialize(self, handler: BaseHandler | None = None) -> bytes:
        return self._raw


class KeepAlive(SSEvent):
    """A comment. With an id, it moves the place at which the client resumes, without waking it."""

    def __init__(self, id: str = "") -> None:
        super().__init__()
        self._raw = (f": here\nid: {id}\n\n" if id else ": here\n\n").encode()

    def serialize(self, handler: BaseHandler | None = None) -> bytes:
        return self._raw
