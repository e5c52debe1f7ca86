"""From a URL to a bus. Adapters are imported when they are named, so that nobody pays for the other engine."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

from bus.errors import BadUrl
from bus.ports import Bus


def open_bus(url: str, user: str, folder: Path | None = None, stream_url: str = "") -> Bus:
    """The bus at `url`: `sqlite:///folder` (embedded, known there as `user`) or `amqp://user:password@host/vhost`.

    `folder`: where an agent on RabbitMQ remembers what its inbox has bound. `stream_url`: where that broker speaks the
    native stream protocol, `rabbitmq-stream://HOST:PORT`; else streams are read over AMQP 0.9.1.
    Raises `BadUrl`, `bus.errors.Unreachable`.
    """
    parts = urlsplit(url)
    if parts.scheme == "sqlite" and parts.path:
        from bus.embedded import EmbeddedBus

        return EmbeddedBus(unquote(parts.path), user)
    if parts.scheme in ("amqp", "amqps"):
        from bus.rabbitmq import RabbitBus

        return RabbitBus(url, folder, stream_url)
    raise BadUrl(f"{parts.scheme or url!r} is no bus; sqlite:///FOLDER and amqp://USER:PASSWORD@HOST:PORT/VHOST are")
