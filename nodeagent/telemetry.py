"""What the agent says for whoever listens just now. It is never in the outbox: while the bus is away it is dropped."""

import threading
from concurrent.futures import Future

from bus.ports import Bus, Message
from events.codec import encode
from events.envelope import Event
from events.routing import routing_key

#: Messages that may be unconfirmed at a time. A bus that takes no more of them gets no more.
MAX_UNCONFIRMED = 1_000


class Telemetry:
    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._lock = threading.Lock()
        self._unconfirmed = 0
        self._dropped = 0

    @property
    def dropped(self) -> int:
        """Messages that were not sent since the agent started."""
        return self._dropped

    def say(self, event: Event) -> bool:
        """False when it was dropped. Does not wait for the bus."""
        with self._lock:
            if not self._bus.connected or self._unconfirmed >= MAX_UNCONFIRMED:
                self._dropped += 1
                return False
            self._unconfirmed += 1
        message = Message(key=routing_key(event), body=encode(event), id=event.id, type=event.type)
        self._bus.publish(message).add_done_callback(self._settle)
        return True

    def _settle(self, future: Future[None]) -> None:
        with self._lock:
            self._unconfirmed -= 1
            if future.exception() is not None:
                self._dropped += 1
