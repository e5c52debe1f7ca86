"""The ports of the bus. Each docstring is a contract; `tests/contract` runs it on every adapter.

Everything here may be called from any thread. Nothing here decodes a body.
"""

from collections.abc import Sequence
from concurrent.futures import Future
from datetime import datetime
from types import TracebackType
from typing import Literal, Protocol, Self

from msgspec import Struct

from events.envelope import CONTENT_TYPE

StreamName = Literal["log", "telemetry", "blobs"]

#: Where a reader may begin: an offset, the first record that is kept, or the next one to be appended.
Start = int | Literal["first", "next"]


class Message(Struct, frozen=True, gc=False):
    """What is published on the exchange `fleetbus`. `key` is the routing key; the rest become AMQP properties."""

    key: str
    body: bytes
    id: str = ""
    type: str = ""
    content_type: str = CONTENT_TYPE


class Record(Struct, frozen=True, gc=False):
    """One entry of a stream. `user` is who published it, as the engine verified, or None when it did not."""

    offset: int
    body: bytes
    key: str
    user: str | None

    @property
    def next_offset(self) -> int:
        """The next to be read. Nobody else writes `offset + 1`; offsets grow but need not be without gaps."""
        return self.offset + 1


class Delivered(Struct, frozen=True, gc=False):
    """One delivery out of an inbox; `tag` is for `ack`, and means nothing after the inbox opened anew."""

    tag: int
    key: str
    body: bytes


class Reader(Protocol):
    """One walk along a stream, in order, from where it was opened.

    It survives the loss of the connection: it reconnects and goes on at the next record that it has not returned.
    One thread at a time may use it.
    """

    def read(self, limit: int = 1000, timeout: float = 1.0) -> list[Record]:
        """The next records, at most `limit`; waits up to `timeout` seconds for the first.

        Returns [] when none came (also while the engine is away). Records never come twice and never out of order.
        The offset of the first may be later than asked for when the stream no longer keeps the earlier ones.
        Raises `Closed` after `close`, `Refused` when this user may not read the stream.
        """
        ...

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Stream(Protocol):
    """An ordered, durable sequence of records that is only ever appended to."""

    def read_from(self, start: Start) -> Reader:
        """A reader whose first record has an offset >= `start`. Does not wait for the engine.

        From `next` it sees all that this process publishes after the call; of what others publish, what comes after
        the engine was reached for the first time. Who must not miss anything begins at a number.
        """
        ...

    def first(self) -> Record | None:
        """The oldest record that is kept, or None when the stream is empty. Raises `Unreachable`."""
        ...

    def next_offset(self) -> int:
        """An offset that every record appended before this call is below, and 0 for an empty stream.

        Raises `Unreachable`.
        """
        ...

    def offset_at(self, time: datetime) -> int:
        """An offset at or before the first record appended at `time` or later, as near as the engine knows.

        The caller reads on from there and decides by log time. Raises `Unreachable`.
        """
        ...


class Seat(Protocol):
    """The right to decide. At most one process in the fleet holds it, as far as the engine can tell; the log is the
    referee of the rest (`bus.admission`).
    """

    def acquire(self, timeout: float) -> bool:
        """Waits up to `timeout` seconds for the seat. True when held now. Raises `Unreachable`."""
        ...

    @property
    def held(self) -> bool:
        """False from the moment the connection or lease is gone, for ever: a lost seat is not taken up again by the
        same object.
        """
        ...

    def release(self) -> None:
        """Gives the seat up, if held."""
        ...


class Inbox(Protocol):
    """What one node is told. Its queue outlives the agent; it is consumed by one process at a time.

    One thread at a time may use it. After the connection was lost it opens itself anew, with the same keys:
    `generation` grows, tags of before mean nothing any more, and unacknowledged deliveries come again.
    """

    @property
    def generation(self) -> int:
        """How often the inbox was opened: 0 before the first time, and grows by one when it is consumed again."""
        ...

    def open(self, keys: Sequence[str]) -> None:
        """Declares, binds exactly `keys` (patterns on `fleetbus.deliver`, such as `n1.node`, `n1.cpu.#`) and consumes.

        Waits at most 15 seconds. Raises `InboxTaken`, `Refused`, `Unreachable`.
        """
        ...

    def bind(self, keys: Sequence[str]) -> None:
        """From now on exactly these keys are bound. Raises `Unreachable`, `Refused`."""
        ...

    def read(self, limit: int = 100, timeout: float = 1.0) -> list[Delivered]:
        """The next deliveries; [] when none came in `timeout` seconds (also while the engine is away).

        Raises `InboxTaken` when another took it over meanwhile, `Closed` after `close`.
        """
        ...

    def ack(self, tags: Sequence[int]) -> None:
        """These deliveries are in the agent's journal. Tags of an earlier generation are passed over."""
        ...

    def close(self) -> None:
        """Stops consuming. The queue and its bindings stay."""
        ...


class Bus(Protocol):
    """One process' way to the engine: one connection, one reconnect machine."""

    @property
    def user(self) -> str:
        """The user by which the engine knows this process (`events.actors`)."""
        ...

    @property
    def connected(self) -> bool: ...

    def publish(self, message: Message) -> Future[None]:
        """Appends to every stream that is bound to the key; a key that none is bound to goes to the log.

        The future is done when the engine confirmed. It fails with `NotConfirmed` when the connection broke or
        30 seconds passed, with `Refused` when the engine said no, with `Closed`. Messages of one process are appended
        in the order of their calls. At most 10,000 are unconfirmed at a time: then the call blocks, at most 30
        seconds, and the future fails with `NotConfirmed`. While the engine is away the call does not block for it.
        """
        ...

    def deliver(self, key: str, body: bytes, id: str = "") -> Future[bool]:
        """Puts a delivery into the inboxes bound to `key` on `fleetbus.deliver`. The result says whether there was one.

        Fails as `publish` does; `Refused` for every user but the handlers'.
        """
        ...

    def stream(self, name: StreamName) -> Stream: ...

    def seat(self, name: str) -> Seat: ...

    def inbox(self, node: str) -> Inbox: ...

    def remove_inbox(self, node: str) -> None:
        """Deletes a node's inbox with what is in it. Harmless when there is none. Raises `Unreachable`, `Refused`."""
        ...

    def close(self) -> None:
        """Ends everything; unconfirmed futures fail with `Closed`. Harmless when called again."""
        ...
