"""Every error the storage layer raises, under one root.

Misuse by the caller (`BadQuery`, `BadDocument`, `BadPoint`, `BadName`, `BadUrl`) is told apart from
trouble with the server (`Unreachable`, `StorageFailed`) and from damaged data (`CorruptBlob`).
No message ever holds a password.
"""


class OsisError(Exception):
    """Root of all errors of the storage layer."""


class Unreachable(OsisError):
    """The server did not answer within the bound, or lost the connection; trying again may help.

    A write that raises this may or may not have happened. All writes of the three ports are
    idempotent, so repeating it is right.
    """


class StorageFailed(OsisError):
    """The storage refused an operation for a reason of its own: disk full, not allowed, broken file."""


class Misuse(OsisError):
    """The caller asked for something the port does not offer; nothing was changed."""


class BadQuery(Misuse):
    """A filter, sort, field path, cursor or aggregate is not one the port understands."""


class BadDocument(Misuse):
    """A document has no string `_id`, an `_at` that is not an integer, or a value JSON cannot hold."""


class BadPoint(Misuse):
    """A point has an unknown measurement, an undeclared tag, or a field of a changed type."""


class BadName(Misuse):
    """The name of a namespace, collection, measurement, tail or channel has the wrong form."""


class BadUrl(Misuse):
    """A storage URL has an unknown scheme or lacks a part."""


class CorruptBlob(OsisError):
    """The stored chunks of a blob are complete but do not hash to its name."""
