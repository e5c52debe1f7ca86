"""One run: load, fault, heal, quiet, check; and what is kept of it."""

import random
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import msgspec
from msgspec import Struct

from bus.ports import Bus
from events.actors import PORTAL
from projections.generation import live
from projections.osis.errors import OsisError
from projections.osis.open import open_documents
from tests.chaos import checkers, nemesis
from tests.chaos.checkers import Seen
from tests.chaos.fleet import NODES, PATIENCE, ChaosFleet, chaos_fleet
from tests.chaos.history import History, Told
from tests.chaos.load import Watcher, Writers
from tests.chaos.nemesis import Scene
from tests.chaos.network import Network
from tests.chaos.observer import Observer

#: Seconds after the heal within which all must be over: every job ended, all views up to date.
QUIET_WITHIN = 150.0
#: Seconds after which a writer that was not told has waited long.
SLOW = 10.0
#: Jobs of which the portal is asked.
ASKED = 5
#: Seconds of load before the fault, and after the heal.
BEFORE, AFTER = (0.3, 1.5), 0.7


class Result(Struct, kw_only=True):
    """What is kept of a run, as JSON."""

    seed: int
    plan: str
    done: list[str]
    #: From the heal until all was over; seconds of the whole run.
    back_after: float
    seconds: float
    commands: int
    jobs: int
    records: int
    #: Records that do not count: sent again; said without the seat.
    again: int
    void: int
    recovered: int
    #: Commands whose writer was not told at once, or never.
    slow: list[Told]
    #: Checker -> what it complains of.
    complaints: dict[str, list[str]]

    @property
    def passed(self) -> bool:
        return not any(self.complaints.values())


class Trials:
    """Runs on one fleet, one after the other."""

    def __init__(self, fleet: ChaosFleet, bus: Bus) -> None:
        self._fleet, self._bus = fleet, bus
        self.observer = Observer(fleet.log)
        self.watcher = Watcher(fleet)

    def close(self) -> None:
        self.watcher.close()

    def wait_until_ready(self, deadline: float) -> None:
        """All nodes are there."""
        end = time.monotonic() + deadline
        while self.observer.fleet.nodes != dict.fromkeys(NODES, "online"):
            assert time.monotonic() < end, f"the nodes did not come: {self.observer.fleet.nodes}"
            time.sleep(0.1)
            self.observer.look()

    def run(self, seed: int, plan: str) -> Result:
        chance = random.Random(seed)
        self.observer.look()
        since, began = self.observer.next_offset, time.monotonic()
        scene = Scene(self._fleet, chance, chance.choice(sorted(NODES)), self._fleet.holder(self.observer.holder), [])
        writers = Writers(self._fleet, self._bus, chance)
        try:
            time.sleep(chance.uniform(*BEFORE))
            nemesis.strike(plan, scene)
            healed = time.monotonic()
            time.sleep(AFTER)
            told = writers.stop()
        except BaseException:
            writers.abandon()
            raise
        measured = "influx" in plan
        seen = self._quiet(told, since, healed + QUIET_WITHIN, time.time() if measured else None)
        over = time.monotonic()
        return self._result(seed, plan, scene, seen, back_after=over - healed, seconds=over - began)

    def _result(self, seed: int, plan: str, scene: Scene, seen: Seen, **times: float) -> Result:
        own = [fact for fact in seen.facts if fact.offset >= seen.since]
        return Result(
            seed=seed,
            plan=plan,
            done=scene.done,
            back_after=round(times["back_after"], 1),
            seconds=round(times["seconds"], 1),
            commands=len(seen.history.told),
            jobs=len(seen.jobs),
            records=len(own),
            again=sum(fact.verdict == "again" for fact in own),
            void=sum(fact.verdict == "void" for fact in own),
            recovered=checkers.recovered(seen),
            slow=[told for told in seen.history.told if told.seconds > SLOW or told.answer != "confirmed"],
            complaints=checkers.check(seen),
        )

    # until all is over

    def _quiet(self, told: list[Told], since: int, end: float, measured: float | None) -> Seen:
        """The history when nothing is missing any more; or as it is at the end of the time for it.

        `measured`: the moment (seconds since 1970) after which each node's measurements must come again.
        """
        commands = {one.id for one in told if one.answer == "confirmed"}
        while waiting := self._undone(commands, since):
            if time.monotonic() > end:
                break
            time.sleep(0.2)
        while True:
            seen = self._seen(told, since, waiting)
            if measured is not None and (silent := NODES.keys() - self._measured_since(measured)):
                seen.history.sick.append(f"no measurements of {sorted(silent)} since the heal")
            late = time.monotonic() > end
            if late or not (seen.history.sick or any(checkers.views(seen)) or any(checkers.watched(seen))):
                return seen
            time.sleep(0.3)

    def _undone(self, commands: set[str], since: int) -> list[str]:
        self.observer.look()
        return self.observer.undone(commands, since)

    def _seen(self, told: list[Told], since: int, waiting: list[str]) -> Seen:
        history = History(told=told, sick=list(waiting))
        self.observer.look()
        jobs = self.observer.fleet.since(since)
        self._read_documents(history, [job.id for job in jobs])
        self._ask_portal(history, [job.id for job in jobs[:ASKED]])
        self.observer.look()
        history.marks = self._marks([job.id for job in self.observer.fleet.since(since)])
        history.watched = [one for one in self.watcher.seen if one.place > since]
        if not history.watched or history.watched[-1].place <= self.observer.last:
            history.sick.append(f"the portal's stream is at {self.watcher.place}, the log at {self.observer.last}")
        history.sick += self.watcher.refusals
        return Seen(history, self.observer.facts, self.observer.fleet, since)

    def _read_documents(self, history: History, jobs: list[str]) -> None:
        try:
            with closing(open_documents(self._fleet.documents_url)) as documents:
                views = documents.namespace(live(documents) or "none")
                found = views.get_many("jobs", jobs)
                history.documents = {id: (document["state"], document["node"]) for id, document in found.items()}
                asked = views.get_many("commands", [one.id for one in history.told])
                history.outcomes = {id: document["outcome"] for id, document in asked.items() if document["outcome"]}
                history.nodes = {id: document["state"] for id, document in views.get_many("nodes", NODES).items()}
                if set_aside := views.find("set_aside").items:
                    history.sick.append(f"documents were set aside: {set_aside[:3]}")
        except OsisError as error:
            history.sick.append(f"the documents cannot be read: {error}")

    def _ask_portal(self, history: History, jobs: list[str]) -> None:
        headers = {"Authorization": f"Bearer {self._fleet.token}"}
        with httpx.Client(base_url=f"{self._fleet.url}/api/v1", headers=headers, timeout=20, trust_env=False) as client:
            try:
                for id in jobs:
                    job = client.get(f"/jobs/{id}").raise_for_status().json()
                    history.answers[id] = (job["state"], job["node"])
                health = client.get("/health").json()
            except (httpx.HTTPError, KeyError) as error:
                history.sick.append(f"the portal does not answer: {error!r}")
                return
        history.sick += [f"health: {name} is failing: {detail}" for name, detail in _ill(health)]

    def _measured_since(self, moment: float) -> set[str]:
        """Nodes of which InfluxDB has a point after this moment."""
        at = urlsplit(self._fleet.series_url)
        query = f'SELECT * FROM "node"."node" WHERE time > {int(moment * 1e9)} GROUP BY "node" LIMIT 1'
        try:
            answer = httpx.get(
                f"http://{at.hostname}:{at.port}/query",
                params={"db": at.path.strip("/"), "q": query},
                auth=(at.username or "", at.password or ""),
                timeout=20,
                trust_env=False,
            )
        except httpx.HTTPError:
            return set()
        said = [series["tags"]["node"] for series in answer.json()["results"][0].get("series", [])]
        # the tag is written with a mark before the node
        return {node for node in NODES if any(tag.endswith(node) for tag in said)}

    def _marks(self, jobs: list[str]) -> dict[str, int]:
        paths = {id: self._fleet.marks / id for id in jobs}
        return {id: path.read_text().count("ran\n") for id, path in paths.items() if path.exists()}

    # what is kept

    def records_since(self, offset: int) -> bytes:
        """The log from an offset on, one JSON line for each record."""
        return b"\n".join(
            msgspec.json.encode({"offset": raw.offset, "user": raw.user, "key": raw.key, "body": raw.body.decode()})
            for raw in self._fleet.log.records
            if raw.offset >= offset
        )


def _ill(health: dict[str, Any]) -> list[tuple[str, str]]:
    return [(check["name"], check["detail"]) for check in health["checks"] if check["status"] == "failing"]


@contextmanager
def trials(folder: Path, network: Network | None = None) -> Iterator[tuple[ChaosFleet, Trials]]:
    """A fleet of its own in a new folder, ready for runs."""
    with chaos_fleet(folder, network) as fleet:
        made = Trials(fleet, fleet.engine.bus(PORTAL))
        made.wait_until_ready(PATIENCE)
        try:
            yield fleet, made
        finally:
            made.close()
