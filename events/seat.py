"""What is said about the log and about the right to decide."""

from msgspec import Struct

from events.names import Id, Text


class LogCreated(Struct, frozen=True, kw_only=True):
    """The first record of a log. The log's id is derived from it, whoever wrote it."""

    created_by: Text


class SeatTaken(Struct, frozen=True, kw_only=True):
    """A process took the seat. Counts only when `previous` names the holder's token at that point of the log."""

    seat: str
    previous: Id | None
    holder: Text


class SeatTick(Struct, frozen=True, kw_only=True):
    """Log time moved on: 30 seconds passed without another fact of the seat."""


class CommandRejected(Struct, frozen=True, kw_only=True):
    """The outcome of a command that nothing came of.

    `reason` is a closed word for programs; `message` says what was wrong, where, and what would be right;
    `field` is the path in the command's data; `exists` lists what could have been meant.
    """

    command: Id
    command_type: str
    reason: str
    message: Text
    field: str = ""
    exists: tuple[str, ...] = ()
