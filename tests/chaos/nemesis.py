"""What goes wrong: single faults and pairs. Each is chosen, and measured out, by the run's own source of chance."""

import random
import threading
from collections.abc import Callable
from typing import Literal

from msgspec import Struct

from tests.chaos.fleet import NODES, ChaosFleet
from tests.servers.server import Server

#: Makes it well again.
Heal = Callable[[], None]
#: Seconds for which a fault lasts: mostly short; now and then longer than leases and heartbeats (5 to 15 s).
SHORT, LONG, LONG_SHARE = (0.3, 4.0), (9.0, 18.0), 0.2
#: Seconds by which a clock is wrong.
SKEWS = (-3600.0, -300.0, -30.0, 30.0, 300.0, 1500.0)


class Scene(Struct):
    """Where a fault happens: the node and the holder of the seat are the same for both faults of a pair."""

    fleet: ChaosFleet
    chance: random.Random
    node: str
    holder: str
    #: What was done, in words.
    done: list[str]

    @property
    def standby(self) -> str:
        return "standby" if self.holder == "handlers" else "handlers"


Fault = Callable[[Scene], Heal]


def _nothing() -> None:
    """A process that was killed is started again by itself."""


def kill(scene: Scene, name: str) -> Heal:
    scene.done.append(f"kill -9 {name}")
    scene.fleet.kill(name)
    return _nothing


def freeze(scene: Scene, name: str) -> Heal:
    scene.done.append(f"freeze {name}")
    scene.fleet.freeze(name)
    return lambda: scene.fleet.thaw(name)


def hurt(scene: Scene, name: str) -> Heal:
    return scene.chance.choice([kill, kill, freeze])(scene, name)


def cut(scene: Scene, name: str) -> Heal:
    scene.done.append(f"cut the network of {name}")
    scene.fleet.network.cut(name)
    return lambda: scene.fleet.network.mend(name)


def restart(scene: Scene, server: Server) -> Heal:
    way: Literal["stop", "kill -9"] = scene.chance.choice(["stop", "kill -9"])
    scene.done.append(f"{way} {server.name}")
    if way == "stop":
        server.stop()
    else:
        server.kill()
    return server.start


def skew(scene: Scene, *names: str) -> Heal:
    seconds = scene.chance.choice(SKEWS)
    scene.done.append(f"move the clock of {' and '.join(names)} by {seconds:+.0f} s")
    for name in names:
        scene.fleet.skew(name, seconds)

    def heal() -> None:
        for name in names:
            scene.fleet.skew(name, 0.0)

    return heal


def fill(scene: Scene, node: str) -> Heal:
    scene.done.append(f"fill the disk of {node}")
    scene.fleet.fill_disk(node)
    return lambda: scene.fleet.free_disk(node)


def worker(scene: Scene) -> Heal:
    scene.done.append(f"kill -9 a worker or job of {scene.node}")
    scene.fleet.kill_a_worker(scene.node, scene.chance)
    return _nothing


FAULTS: dict[str, Fault] = {
    "handlers": lambda scene: hurt(scene, scene.holder),
    "standby": lambda scene: hurt(scene, scene.standby),
    "projections": lambda scene: hurt(scene, "projections"),
    "portal": lambda scene: hurt(scene, "portal"),
    "agent": lambda scene: hurt(scene, scene.node),
    "worker": worker,
    "agent's network": lambda scene: cut(scene, scene.node),
    "handlers' network": lambda scene: cut(scene, scene.holder),
    "broker": lambda scene: restart(scene, scene.fleet.servers.broker),
    "documents": lambda scene: restart(scene, scene.fleet.servers.documents),
    "influx": lambda scene: restart(scene, scene.fleet.servers.influx),
    "redis": lambda scene: restart(scene, scene.fleet.servers.redis),
    "disk": lambda scene: fill(scene, scene.node),
    "agent's clock": lambda scene: skew(scene, scene.node),
    "handlers' clock": lambda scene: skew(scene, scene.holder, scene.standby),
}

#: A run has one of these, by its name.
PLANS: dict[str, tuple[str, ...]] = {
    **{name: (name,) for name in FAULTS},
    "broker+handlers": ("broker", "handlers"),
    "broker+agent": ("broker", "agent"),
    "handlers+handlers": ("handlers", "standby"),
    "handlers+projections": ("handlers", "projections"),
    "agent+worker": ("agent", "worker"),
    "agent+network": ("agent", "agent's network"),
    "handlers+network": ("handlers", "handlers' network"),
    "documents+projections": ("documents", "projections"),
    "disk+agent": ("disk", "agent"),
    "clock+handlers": ("handlers' clock", "handlers"),
    "redis+portal": ("redis", "portal"),
    "influx+projections": ("influx", "projections"),
}


def strike(plan: str, scene: Scene) -> None:
    """Carries the plan out, one fault after the other, and heals, in either order. Blocks all the while."""
    scene.node = scene.node or scene.chance.choice(sorted(NODES))
    faults = list(PLANS[plan])
    if len(faults) == 2 and scene.chance.random() < 0.5:
        faults.reverse()
    heals: list[Heal] = []
    try:
        for name in faults:
            heals.append(FAULTS[name](scene))
            _pass(scene.chance.uniform(0, 1.5))
        span = LONG if scene.chance.random() < LONG_SHARE else SHORT
        seconds = scene.chance.uniform(*span)
        scene.done.append(f"wait {seconds:.1f} s")
        _pass(seconds)
    finally:
        scene.chance.shuffle(heals)
        for heal in heals:
            heal()


def _pass(seconds: float) -> None:
    """How long a fault lasts is part of it: nothing is waited for."""
    threading.Event().wait(seconds)
