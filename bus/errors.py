"""What can go wrong on the bus, under one root."""


class BusError(Exception):
    """Root of all errors of the bus."""


class Unreachable(BusError):
    """The engine cannot be reached, or the wait for it ran out."""


class NotConfirmed(BusError):
    """The engine did not confirm in time, or the connection broke: the message is in the log or it is not.

    Sending it again with the same id is right; admission drops the second one.
    """


class Refused(BusError):
    """The engine understood and said no: not allowed, no such thing, or too large. Sending it again changes nothing."""


class Closed(BusError):
    """The bus was closed on this side."""


class InboxTaken(BusError):
    """Another agent consumes this inbox: a clone with the same identity, or a former self that is not gone yet."""


class SeatLost(BusError):
    """The right to decide is gone: another process may hold it now. The holder exits; it never re-sends from memory."""


class LogDiverged(BusError):
    """The log is not the one that a checkpoint was made from: another log, or one that was cut."""


class BadUrl(BusError):
    """A bus URL that no adapter understands."""
