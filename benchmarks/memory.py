"""Memory at rest: what each service of fleetbus holds after some jobs, beside a Celery worker and a Salt minion.

Memory is the sum of PSS (proportional set size: a page that several processes share counts for each in its share) of a
process and all its children, from /proc/PID/smaps_rollup: of the Salt minion too, which is several processes. All have
been started anew for each run, on the real servers.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil

from benchmarks.jobs import FLEETBUS, NODE, PATIENCE, Caller, celery_worker, running
from benchmarks.measure import Goal, Table, tabulate
from benchmarks.place import Place, Progress
from benchmarks.salt_round_trips import salt
from bus.wiring import open_bus
from events.actors import HANDLERS, PORTAL, PROJECTIONS, agent_user
from tests.servers.ports import free_ports

#: Empty jobs that each worker has behind it, and pings that the minion has.
JOBS = 20
#: Seconds in which nothing happens before the look.
REST = 5.0
LOOK = 0.2

UNITS = {"memory": "MB", "processes": "processes"}
#: The agent without the workers of other queues than `default`, and as it comes: with one worker for each of those.
TWO_WORKERS, ALL_WORKERS = "agent, 2 workers", "agent, 5 workers"
CELERY, SALT = "Celery worker, prefork 2", "Salt minion"
GOALS = tuple(Goal("memory", peer, "none: an agent with 2 workers beside it") for peer in (CELERY, SALT))


def tables(place: Place, runs: int, progress: Progress) -> list[Table]:
    found: dict[str, list[Mapping[str, float]]] = {}
    for turn in range(1, runs + 1):
        progress(f"memory at rest, run {turn} of {runs}")
        with place.folder() as folder, _everything(place, folder, progress) as processes:
            time.sleep(REST)
            for name, process in processes.items():
                found.setdefault(name, []).append(_memory(name, process))
    return [tabulate("Memory at rest", found, UNITS, GOALS)]


@contextmanager
def _everything(place: Place, folder: Path, progress: Progress) -> Iterator[Mapping[str, psutil.Process]]:
    """All processes side by side, each with some work behind it."""
    with ExitStack() as stack:
        engine = stack.enter_context(place.engine())
        engine.invite(NODE)
        caller = Caller(stack.enter_context(closing(open_bus(engine.url(PORTAL), PORTAL))))
        views = {
            "FLEETBUS_DOCUMENTS_URL": urlsplit(place.mongodb_url)._replace(path=f"/{folder.name}").geturl(),
            "FLEETBUS_SERIES_URL": f"sqlite://{folder}/series.db",
            "FLEETBUS_LIVE_URL": place.redis_url,
        }

        def service(user: str, *words: str, **variables: str) -> psutil.Popen:
            start = running([*FLEETBUS, *words], folder / words[0], engine.url(user), **variables)
            return stack.enter_context(start)

        port = str(free_ports(1)[0])
        rival = stack.enter_context(salt(progress))
        agent = service(agent_user(NODE), "agent", "--node", NODE)
        processes = {
            TWO_WORKERS: agent,
            ALL_WORKERS: agent,
            "handlers": service(HANDLERS, "handlers"),
            "projections": service(PROJECTIONS, "projections", **views),
            "portal": service(PORTAL, "portal", "--port", port, **views),
            CELERY: stack.enter_context(celery_worker(place)),
            SALT: rival.minion,
        }
        rival.pings(JOBS)
        _work(caller, f"http://127.0.0.1:{port}")
        yield processes


def _work(caller: Caller, portal: str) -> None:
    from benchmarks.celery_app import empty

    caller.publish_script()
    caller.wait_for({caller.submit() for _ in range(JOBS)})
    for result in [empty.delay() for _ in range(JOBS)]:
        result.get(timeout=PATIENCE)
    deadline = time.monotonic() + PATIENCE
    while not _answers(f"{portal}/login"):
        if time.monotonic() > deadline:
            raise TimeoutError("the portal does not answer")
        time.sleep(LOOK)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def _memory(name: str, process: psutil.Process) -> Mapping[str, float]:
    family = [process, *process.children(recursive=True)]
    if name != TWO_WORKERS:
        return _figures(family)
    # Without the others, the pages of files that all share would count in full for those that remain: so they are
    # added, all that are mapped by the others.
    others = [each for each in family if _works_for_another_queue(each)]
    figures = _figures([each for each in family if each not in others])
    return {**figures, "memory": figures["memory"] + sum(_pss(each.pid, "Pss_File") for each in others) / 1e6}


def _figures(family: list[psutil.Process]) -> dict[str, float]:
    return {"memory": sum(_pss(each.pid) for each in family) / 1e6, "processes": float(len(family))}


def _works_for_another_queue(process: psutil.Process) -> bool:
    command = process.cmdline()
    return "nodeagent.worker" in command and not command[-1].startswith("default-")


def _pss(pid: int, kind: str = "Pss") -> int:
    """In bytes."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{kind}:"))
