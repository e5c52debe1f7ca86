"""A job on every node of a fleet: the time until all have answered, for fleets of 10 to 5,000 emulated agents.

Each agent has a broker user, an inbox and a connection of its own, beats, and answers over the real protocol; handlers
decide. Each fleet has a broker of its own, so that its memory is this fleet's. Beside it, with the same agents: bare
pika, which puts the same deliveries straight into the inboxes and counts what comes out of the stream.
"""

import resource
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
import pika
import psutil

from benchmarks.jobs import FLEETBUS, Caller, running
from benchmarks.measure import Goal, Table, tabulate
from benchmarks.place import Place, Progress
from bus.clock import new_id
from bus.rabbitmq.names import DELIVER
from bus.wiring import open_bus
from events.actors import HANDLERS, PORTAL
from events.codec import decode
from events.delivery import RunJob, encode_delivery
from events.job import BatchCreated, JobFinished, Order, Target
from fleetbus import emulation
from nodeagent.emulator import Team
from tests.contract.bus_contract import RabbitEngine
from tests.servers.rabbitmq import RabbitMQ
from tests.servers.server import write_private

#: The largest first: it is what the others are compared with.
SIZES = (5_000, 1_000, 100, 10)
QUICK_SIZES = (100, 10)
#: Repetitions with the largest fleet; with the others as many as other benchmarks have runs.
REPETITIONS = 20
#: Processes that play the agents.
PLAYERS = 2
#: Seconds until all agents of a fleet must be connected, until all must have answered, and in which each beats once.
GATHER_WITHIN, ANSWER_WITHIN, BEATS = 600.0, 120.0, 5.0
LOOK = 0.5
#: Files that a process of a fleet may have to open, and how many more for each agent: RabbitMQ keeps some for itself.
FILES, FILES_PER_AGENT = 2_000, 2

#: Where the broker's settings for many agents are, and what they begin with.
DEPLOYED = Path(__file__).parents[1] / "deploy" / "rabbitmq.conf"
FOR_MANY = ("tcp_listen_options.", "collect_statistics_interval", "management.rates_mode")
#: And as many threads for files as Erlang has by itself: the tests' brokers have two, for thousands of inboxes too few.
ERLANG = " +sbwt none +sbwtdcpu none +sbwtdio none +SDio 10"

BARE = "bare pika"
UNITS = {
    "last answer": "s",
    "half of the answers": "s",
    "missing": "answers",
    "broker, resident": "MB",
    "broker, allocated": "MB",
    "processor of handlers": "s",
    "processor of the emulator": "s",
    "processor of the broker": "s",
}
BARE_UNITS = {"last answer": "s"}


def tables(place: Place, runs: int, progress: Progress) -> list[Table]:
    found: dict[str, list[Mapping[str, float]]] = {}
    beside: dict[str, list[Mapping[str, float]]] = {}
    sizes = QUICK_SIZES if place.quick else SIZES
    for size in sizes:
        name = f"{size:,} agents"
        with place.folder() as folder, fleet(folder, size, progress) as those:
            repeat = runs if size < max(SIZES) else max(runs, REPETITIONS)
            progress(f"{name}: warming up")
            those.ask()
            found[name] = [those.ask() for _ in _counted(repeat, f"{name}: asking", progress)]
            if size == max(sizes):
                for _ in _counted(runs, f"{name}: {BARE} beside fleetbus", progress):
                    beside.setdefault("fleetbus", []).append(those.ask())
                    beside.setdefault(BARE, []).append(those.ask_bare())
    goals = (Goal("last answer", BARE, "none: what deciding, admission and the audit trail cost"),)
    return [
        tabulate("A job on every node", found, UNITS, ()),
        tabulate(f"Beside bare pika: a job on each of {max(sizes):,} nodes", beside, BARE_UNITS, goals),
    ]


def _counted(runs: int, what: str, progress: Progress) -> Iterator[None]:
    for turn in range(1, runs + 1):
        progress(f"{what}, {turn} of {runs}")
        yield


class Broker(RabbitMQ):
    """With the settings that a large fleet's broker is deployed with, and room in memory for it."""

    def write_configuration(self) -> None:
        super().write_configuration()
        path = self.directory / "rabbitmq.conf"
        settings = [line for line in DEPLOYED.read_text().splitlines() if line.startswith(FOR_MANY)]
        roomy = path.read_text().replace("absolute = 1GB", "absolute = 8GB")
        write_private(path, "\n".join([roomy, *settings, ""]))

    def environment(self) -> dict[str, str]:
        found = super().environment()
        found["RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS"] += ERLANG
        return found


class Fleet:
    """Emulated agents that are all connected, handlers, and somebody who asks."""

    def __init__(self, broker: Broker, engine: RabbitEngine, caller: Caller, nodes: list[str]) -> None:
        self._broker, self._url, self._caller, self._nodes = broker, engine.url(HANDLERS), caller, nodes
        pid = broker.process.pid()
        assert pid is not None
        self._of_broker = psutil.Process(pid)
        mine = psutil.Process().children()
        self._of_handlers = _named("handlers", mine)
        self._of_emulator = _named("nodeagent.emulator", mine)

    def ask(self) -> Mapping[str, float]:
        """A job on every node, by command."""
        before = self._processor()
        began = time.perf_counter()
        batch = self._caller.submit(Target(all=True))
        ended = self._answers(batch, began)
        after = self._processor()
        times = sorted(ended.values())
        return {
            "last answer": times[-1],
            "half of the answers": times[len(times) // 2],
            "missing": float(len(self._nodes) - len(ended)),
            "broker, resident": self._of_broker.memory_info().rss / 1e6,
            "broker, allocated": self._broker.management.ask("GET", "nodes")[0].get("mem_used", 0) / 1e6,
            **{f"processor of {name}": after[name] - before[name] for name in after},
        }

    def _answers(self, batch: str, began: float) -> dict[str, float]:
        """After how many seconds the answer of each of the batch's jobs was read in the log."""
        jobs: set[str] = set()
        ended: dict[str, float] = {}
        while (not jobs or len(ended) < len(jobs)) and time.perf_counter() - began < ANSWER_WITHIN:
            for record in self._caller.read():
                if not record.key.startswith(("event.batch.created", "event.job.finished")):
                    continue
                match decode(record.body).data:
                    case BatchCreated(batch=id, jobs=made) if id == batch:
                        jobs = {one.job for one in made}
                    case JobFinished(job=job) if job in jobs:
                        ended.setdefault(job, time.perf_counter() - began)
        return ended

    def ask_bare(self) -> Mapping[str, float]:
        """The same deliveries from bare pika, straight into the inboxes; the answers counted in the stream."""
        bodies = [(f"{node}.node", _delivery(node)) for node in self._nodes]
        ready, done = threading.Event(), threading.Event()
        counter = threading.Thread(target=self._count, args=(len(bodies), ready, done))
        counter.start()
        ready.wait(ANSWER_WITHIN)
        with pika.BlockingConnection(pika.URLParameters(self._url)) as connection:
            channel = connection.channel()
            properties = pika.BasicProperties(delivery_mode=2)
            began = time.perf_counter()
            for key, body in bodies:
                channel.basic_publish(DELIVER, key, body, properties)
            if not done.wait(ANSWER_WITHIN):
                raise TimeoutError("not all answers came")
            seconds = time.perf_counter() - began
        counter.join()
        return {"last answer": seconds}

    def _count(self, wanted: int, ready: threading.Event, done: threading.Event) -> None:
        connection = pika.BlockingConnection(pika.URLParameters(self._url))
        channel = connection.channel()
        channel.basic_qos(prefetch_count=1_000)
        count = 0

        def take(_channel: object, method: pika.spec.Basic.Deliver, _properties: object, _body: bytes) -> None:
            nonlocal count
            channel.basic_ack(method.delivery_tag or 0)
            count += (method.routing_key or "").startswith("event.job.finished")
            if count == wanted:
                done.set()

        channel.basic_consume("fleetbus.log", take, arguments={"x-stream-offset": "next"})
        ready.set()
        while not done.is_set():
            connection.process_data_events(time_limit=LOOK)
        # leaving a consumer politely rejects what is on its way, which a stream does not allow
        connection.close()

    def _processor(self) -> dict[str, float]:
        return {
            "handlers": sum(map(_used, self._of_handlers)),
            "the emulator": sum(map(_used, self._of_emulator)),
            "the broker": _used(self._of_broker),
        }


def _named(word: str, processes: list[psutil.Process]) -> list[psutil.Process]:
    alive = [process for process in processes if process.status() != psutil.STATUS_ZOMBIE]
    return [process for process in alive if word in process.cmdline()]


def _used(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _delivery(node: str) -> bytes:
    id = new_id()
    order = Order(script="empty", hash="0" * 64, by="user:bench", timeout=60.0)
    start_by = datetime.now(UTC) + timedelta(hours=1)
    return encode_delivery(RunJob(job=id, fact=id, correlation=id, node=node, order=order, start_by=start_by))


def allow_files(size: int) -> None:
    """Lets the processes of a fleet open what they need: each connection is a file, on both sides.

    Raises `click.ClickException` when this user may not.
    """
    needed = FILES + FILES_PER_AGENT * size
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise click.ClickException(
            f"a fleet of {size:,} needs {needed:,} open files, and {hard:,} are allowed; "
            f"right would be `ulimit -Hn {needed}` by root, or LimitNOFILE={needed} in the unit that starts this"
        )
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


@contextmanager
def fleet(folder: Path, size: int, progress: Progress) -> Iterator[Fleet]:
    """The fleet, when all are connected and have beaten once. Raises as `allow_files` does."""
    allow_files(size)
    broker = Broker(folder / "rabbitmq")
    with ExitStack() as stack:
        stack.callback(broker.stop)
        broker.start()
        management = broker.management
        engine = RabbitEngine(management, management.add_vhost("fleet"))
        stack.callback(engine.close)
        streams = f"rabbitmq-stream://127.0.0.1:{broker.port('stream')}"
        caller = Caller(stack.enter_context(closing(open_bus(engine.url(PORTAL), PORTAL, stream_url=streams))))
        handlers = [*FLEETBUS, "handlers"], folder / "handlers", engine.url(HANDLERS)
        stack.enter_context(running(*handlers, FLEETBUS_STREAM_URL=streams))
        caller.publish_script()
        nodes = emulation.node_ids("node", size)
        at = emulation.Place(engine.admin_url, management.url)
        members = emulation.make_users(at, nodes, lambda done, every: progress(f"{done:,} of {every:,} users"))
        players = stack.enter_context(emulation.players(Team(members=members, roles=()), PLAYERS))
        _gather(players, size, progress)
        yield Fleet(broker, engine, caller, nodes)


def _gather(players: emulation.Players, size: int, progress: Progress) -> None:
    ends = time.monotonic() + GATHER_WITHIN
    while (counts := players.counts).connected < size:
        progress(f"{counts.connected:,} of {size:,} agents connected")
        if time.monotonic() > ends:
            raise TimeoutError(f"{counts.connected:,} of {size:,} agents could connect; {counts.trouble}")
        time.sleep(LOOK)
    time.sleep(BEATS)
