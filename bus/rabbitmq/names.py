"""What things are called on the broker."""

from bus.ports import StreamName

#: Everything is published here; a topic exchange.
EXCHANGE = "fleetbus"
#: Takes what no stream is bound to, and gives it to the log, so that nothing vanishes.
UNROUTED = "fleetbus.unrouted"
#: Feeds the inboxes; a topic exchange to which only the handlers may write.
DELIVER = "fleetbus.deliver"

#: Declared last: when it is there, all of it is.
LAST = DELIVER

STREAMS: dict[StreamName, str] = {
    "log": "fleetbus.log",
    "telemetry": "fleetbus.telemetry",
    "blobs": "fleetbus.blobs",
}

#: A quorum queue that has what a confirm promised, until it is in the archive: `FLEETBUS_DURABILITY=fsync`.
ARCHIVE = "fleetbus.archive"

#: The seat for which there is a queue.
FLEET = "fleet"

#: For whoever meets a broker on which none of this exists yet.
NO_TOPOLOGY = "the topology is not there yet: start the handlers, which declare it"


def inbox_queue(node: str) -> str:
    return f"node.{node}"


def seat_queue(name: str) -> str:
    return f"seat.{name}"
