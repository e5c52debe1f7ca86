"""Many emulated agents in one process, each with a connection and a broker user of its own, as real agents have.

One asyncio loop plays them all. An agent's life: dial (not all at once) → hold the inbox → say `connected` → beat and
answer until the connection is lost, by chance or by `lose_every` → pause with jitter → dial again, and send again what
was not confirmed, with the numbers it had.

As a process (`python -m nodeagent.emulator`) it reads its team, a line of JSON with passwords in it, from standard
input, says every second how it goes, in a line of JSON, and stops when standard input ends.
"""

import asyncio
import contextlib
import random
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime

import msgspec
import pika
import uvloop
from msgspec import Struct
from pika.exceptions import AMQPError
from pika.spec import Basic

from bus.clock import new_id
from bus.ports import Message
from bus.rabbitmq.channel import Channel, ChannelGone, reason_of, tell
from bus.rabbitmq.connection import parameters, pause_after
from bus.rabbitmq.names import DELIVER, EXCHANGE, inbox_queue
from events.actors import agent_user
from nodeagent.emulated import Counts, EmulatedNode
from nodeagent.emulated_line import Line, Pen, ack
from nodeagent.heartbeat import BEAT_EVERY

#: Connections that are being opened at a time: a broker that is asked for more at once serves nobody well.
DIALLING = 20
#: Seconds of AMQP's own heartbeat. Longer than an agent's: thousands of them share one thread here.
AMQP_HEARTBEAT = 60
PREFETCH = 100

CHANCE = random.SystemRandom()


class Member(Struct, frozen=True):
    """One agent to be: its node's id, and the URL of its broker user."""

    node: str
    url: str


class Team(Struct, frozen=True, kw_only=True):
    """The agents of one process. `lose_every`: mean seconds between two losses of an agent's connection; 0: never."""

    members: tuple[Member, ...]
    roles: tuple[str, ...]
    lose_every: float = 0.0


async def emulate(team: Team, heed: Callable[[Counts], None], stop: asyncio.Event) -> None:
    """Plays the team until `stop` is set, then says goodbye for each. `heed` is told every second how it goes."""
    dialling = asyncio.Semaphore(DIALLING)
    counts = Counts(agents=len(team.members))
    agents = [_Agent(member, team, dialling, counts) for member in team.members]
    lives = [asyncio.create_task(agent.live()) for agent in agents]
    while True:
        counts.jobs = sum(agent.node.ended for agent in agents)
        heed(counts)
        if stop.is_set():
            break
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), 1.0)
    for life in lives:
        life.cancel()
    await asyncio.gather(*lives, return_exceptions=True)
    await asyncio.gather(*(agent.leave() for agent in agents))


class _Agent:
    """One emulated agent and its connection."""

    def __init__(self, member: Member, team: Team, dialling: asyncio.Semaphore, counts: Counts) -> None:
        self.node = EmulatedNode(member.node, team.roles, new_id(), new_id())
        self._url, self._lose_every = member.url, team.lose_every
        self._dialling, self._counts = dialling, counts
        #: Facts that are not confirmed, in the order in which they were said, and the tags of those on their way.
        self._open: OrderedDict[str, Message] = OrderedDict()
        self._tags: OrderedDict[int, str] = OrderedDict()
        self._next_tag = 1
        self._raw: Line | None = None
        #: Writes what is published while the connection stands.
        self._pen: Pen | None = None
        self._lost: asyncio.Future[BaseException]
        self._beating: asyncio.TimerHandle | None = None

    async def live(self) -> None:
        failures = 0
        while True:
            try:
                async with self._dialling:
                    inbox = await self._dial()
                failures = 0
                await self._serve()
                inbox.close()
            except (ChannelGone, AMQPError, OSError) as error:
                failures += 1
                self._counts.trouble = f"{self.node.node}: {reason_of(error)}"
            self._end()
            await asyncio.sleep(pause_after(failures, CHANCE.random()))

    async def leave(self) -> None:
        """Says that it goes, if it is connected, and closes."""
        if self._pen is not None and self._raw is not None and self._raw.is_open:
            with contextlib.suppress(ChannelGone):
                self._say(self.node.disconnected(datetime.now(UTC), new_id()))
            self._raw.close()
            await asyncio.wait({self._lost}, timeout=5.0)

    # a connection

    async def _dial(self) -> Channel:
        loop = asyncio.get_running_loop()
        opened: asyncio.Future[BaseException | None] = loop.create_future()
        lost: asyncio.Future[BaseException] = loop.create_future()
        at = parameters(self._url)
        at.heartbeat = AMQP_HEARTBEAT
        at.client_properties = {"connection_name": f"fleetbus emulated {self.node.node}"}
        self._lost = lost
        self._raw = raw = _connect(at, loop, opened, lost)
        if error := await opened:
            raise error
        out, inbox = Channel(raw), Channel(raw)
        raw.add_on_close_callback(lambda _raw, reason: _lose(reason, out, inbox))
        await out.opened()
        await inbox.opened()
        await self._hold(inbox)
        await raw.confirms(out, self._confirmed)
        self._begin(Pen(out, EXCHANGE, agent_user(self.node.node)))
        return inbox

    async def _hold(self, inbox: Channel) -> None:
        queue, node = inbox_queue(self.node.node), self.node.node
        await inbox.prefetch(PREFETCH)
        await inbox.consume(queue, lambda method, _properties, body: self._take(inbox, method, body), exclusive=True)
        for key in (f"{node}.node", *(f"{node}.{role}.#" for role in self.node.roles)):
            await inbox.bind(queue, DELIVER, key)

    def _begin(self, pen: Pen) -> None:
        """Everything that is not confirmed goes out again before anything new, so that its order stays."""
        self._pen, self._next_tag = pen, 1
        self._tags.clear()
        self._counts.connected += 1
        self._send(*self._open.values())
        self._say(self.node.connected(datetime.now(UTC), new_id()))

    async def _serve(self) -> None:
        """Beats until the connection is lost, or has lived as long as chance gives it."""
        loop = asyncio.get_running_loop()
        ends = CHANCE.expovariate(1 / self._lose_every) if self._lose_every else None
        # agents that were started together must not beat together
        self._beating = loop.call_later(BEAT_EVERY * CHANCE.random(), self._beat, loop)
        await asyncio.wait({self._lost}, timeout=ends)

    def _beat(self, loop: asyncio.AbstractEventLoop) -> None:
        self._beating = loop.call_later(BEAT_EVERY, self._beat, loop)
        with contextlib.suppress(ChannelGone):
            self._send(self.node.heartbeat(datetime.now(UTC), new_id()))

    def _end(self) -> None:
        if self._beating is not None:
            self._beating.cancel()
        if self._pen is not None:
            self._counts.connected -= 1
            self._counts.lost += 1
        self._pen = None
        if self._raw is not None and self._raw.is_open:
            self._raw.close()

    # what it says

    def _take(self, inbox: Channel, method: Basic.Deliver, body: bytes) -> None:
        # acknowledged at once: what is said is kept here until it is confirmed, and this process is the journal
        taken = ack(inbox, method.delivery_tag or 0)
        facts: list[Message] = []
        with contextlib.suppress(msgspec.DecodeError):
            facts = self.node.answer(body, datetime.now(UTC))
        with contextlib.suppress(ChannelGone):
            self._say(*facts, behind=taken)

    def _say(self, *facts: Message, behind: bytes = b"") -> None:
        self._open.update((fact.id, fact) for fact in facts)
        self._send(*facts, behind=behind)

    def _send(self, *messages: Message, behind: bytes = b"") -> None:
        """In one piece, and the frame `behind` with it. Raises `ChannelGone`."""
        frames: list[bytes] = []
        # before there is a pen facts wait in `_open`
        if self._pen is not None:
            timestamp = int(time.time())
            for message in messages:
                self._tags[self._next_tag] = message.id
                self._next_tag += 1
                frames += self._pen.write(message, timestamp)
        if self._raw is not None and (frames or behind):
            self._raw.emit((*frames, behind))

    def _confirmed(self, tag: int, multiple: bool, taken: bool) -> None:
        while self._tags and (first := next(iter(self._tags))) <= tag:
            if not multiple and first != tag:
                first = tag
            id = self._tags.pop(first, "")
            if taken:
                self._open.pop(id, None)
            if first == tag:
                break
        if not taken and self._raw is not None:
            # the broker could not store it: over a new connection it goes again
            self._raw.close()


def _connect(
    at: pika.URLParameters,
    loop: asyncio.AbstractEventLoop,
    opened: "asyncio.Future[BaseException | None]",
    lost: "asyncio.Future[BaseException]",
) -> Line:
    return Line(
        at,
        on_open_callback=lambda _raw: tell(opened, None),
        on_open_error_callback=lambda _raw, error: tell(opened, _error(error)),
        on_close_callback=lambda _raw, reason: tell(lost, reason),
        custom_ioloop=loop,
    )


def _error(error: BaseException | str) -> BaseException:
    return error if isinstance(error, BaseException) else ConnectionError(error)


def _lose(reason: BaseException, *channels: Channel) -> None:
    for channel in channels:
        channel.lose(ChannelGone(0, reason_of(reason)))


def main() -> None:
    team = msgspec.json.decode(sys.stdin.readline(), type=Team)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run(team))


async def _run(team: Team) -> None:
    stop, loop = asyncio.Event(), asyncio.get_running_loop()

    def wait() -> None:
        sys.stdin.read()
        loop.call_soon_threadsafe(stop.set)

    threading.Thread(target=wait, daemon=True).start()
    await emulate(team, _tell, stop)


def _tell(counts: Counts) -> None:
    sys.stdout.write(msgspec.json.encode(counts).decode() + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
