"""The agent's pulse: it is alive, and how the machine is. Telemetry, never in the outbox."""

import threading
import time
from collections.abc import Callable

import psutil
import structlog

from bus.clock import Clock, new_id
from events.telemetry import Heartbeat as Beat
from events.telemetry import Stats as Measured
from nodeagent.facts import Speaker
from nodeagent.stats import Agent, Stats
from nodeagent.telemetry import Telemetry

#: Seconds between two heartbeats. A node that is silent for 20 seconds is offline: three may be lost on the way.
BEAT_EVERY = 5.0
#: Seconds between two measurements.
STATS_EVERY = 10.0

log = structlog.get_logger(__name__)


class Heartbeat:
    """Says `telemetry.heartbeat` and `telemetry.stats` in a thread of its own. `look` tells how the agent is."""

    def __init__(
        self, telemetry: Telemetry, speaker: Speaker, boot: str, look: Callable[[], Agent], clock: Clock
    ) -> None:
        self._telemetry = telemetry
        self._speaker = speaker
        self._boot = boot
        self._look = look
        self._clock = clock
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="heartbeat", daemon=True)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    def _loop(self) -> None:
        stats = Stats()
        measure_at = time.monotonic() + STATS_EVERY
        while not self._stopping.is_set():
            self._beat()
            if time.monotonic() >= measure_at:
                measure_at += STATS_EVERY
                self._measure(stats)
            self._stopping.wait(BEAT_EVERY)

    def _beat(self) -> None:
        agent = self._look()
        beat = Beat(
            node=self._speaker.node,
            boot=self._boot,
            running=agent.jobs_running,
            accepted=agent.jobs_accepted,
            outbox=agent.outbox_facts,
        )
        self._say("telemetry.heartbeat", beat)

    def _measure(self, stats: Stats) -> None:
        try:
            values = stats.measure(self._look())
        except (OSError, psutil.Error) as error:  # a container may hide parts of /proc
            log.warning("cannot measure this machine", action="stats.failed", error=str(error))
            return
        self._say("telemetry.stats", Measured(node=self._speaker.node, values=values))

    def _say(self, type: str, data: Beat | Measured) -> None:
        now = self._clock.now()
        self._telemetry.say(self._speaker.event(type, self._speaker.node, data, now, id=new_id()))
