"""Logs of the services: for eyes on a terminal, JSON lines otherwise. Passwords and tokens never get into them."""

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

from fleetbus.settings import masked

#: Names of fields whose value is never shown, whatever it is.
_SECRET = re.compile(r"password|token|secret|authorization|cookie", re.IGNORECASE)
#: The token of the seat is no secret: it is the id of a fact that everybody reads.
_SHOWN = frozenset({"token_hash", "seattoken"})
#: Libraries that say much: only what matters is heard of them.
_QUIET = ("pika", "urllib3", "httpx", "httpcore", "pymongo", "asyncio", "amqp", "kombu")


def set_up(service: str, form: str = "auto", level: int = logging.INFO) -> None:
    """Sends all logs of this process to stderr. `form`: `console`, `json`, or `auto` (console on a terminal)."""
    console = form == "console" or (form == "auto" and sys.stderr.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _named(service),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=_factory,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=[*_last_steps(console)])
    )
    logging.basicConfig(handlers=[handler], level=level, force=True)
    logging.captureWarnings(capture=True)
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLogger(name).level))


def only_trouble(command: str) -> None:
    """For commands that do what services do: their answer is for stdout, and of the parts only warnings are heard."""
    set_up(command, level=logging.WARNING)


def _factory(*names: Any) -> logging.Logger:
    return logging.getLogger(names[0] if names else "fleetbus")


def _last_steps(console: bool) -> list[structlog.typing.Processor]:
    take = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    if console:
        show = structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
        return [take, hide_secrets, show]
    return [take, structlog.processors.format_exc_info, hide_secrets, structlog.processors.JSONRenderer(default=str)]


def _named(service: str) -> structlog.typing.Processor:
    def add(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event.setdefault("service", service)
        return event

    return add


def hide_secrets(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Masks passwords in URLs, and the whole value of fields whose name says that it is a secret."""
    for name, value in event.items():
        if isinstance(value, str):
            secret = _SECRET.search(name) is not None and name not in _SHOWN and not _is_id(value)
            event[name] = "***" if secret else masked(value)
    return event


def _is_id(value: str) -> bool:
    """The seat's token is logged under the name `token`, and it is a UUID that the log shows to everybody."""
    return len(value) == 36 and value.count("-") == 4
