"""What `fleetbus up` does once its services run, step by step, in a thread of its own beside them.

the portal answers → the bundled scripts are published → this machine is a node → `facts` has run on it
"""

import threading
from collections.abc import Callable, Sequence
from typing import Self

from bus.clock import new_id
from fleetbus.api import Api
from fleetbus.credentials import Fleet
from fleetbus.datafolder import DataFolder
from fleetbus.errors import Failure, NotReached
from jumpscripts import Bundled

#: Seconds between two looks at what is waited for.
LOOK_EVERY = 0.3
#: The script that nodes run by themselves as soon as they have it.
FIRST_SCRIPT = "facts"


class Startup:
    """`doing` says in words what is waited for, until `ready` is set."""

    def __init__(self, fleet: Fleet, folder: DataFolder, scripts: Sequence[Bundled], node: str | None) -> None:
        self.doing = "the portal starts"
        self.ready = threading.Event()
        self._fleet, self._folder, self._scripts, self._node = fleet, folder, scripts, node
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="startup", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()

    def summary(self) -> str:
        """What there is now, in a line."""
        if self._node is None:
            return f"ready: {self._fleet.url}"
        return f"ready: {self._fleet.url}; this machine is the node {self._node}"

    def _run(self) -> None:
        with Api(self._fleet) as api:
            for step in (self._portal, self._publish, self._wait_for_node, self._wait_for_facts):
                if not self._until_done(step, api):
                    return
        self.doing = ""
        self.ready.set()

    def _until_done(self, step: Callable[[Api], bool], api: Api) -> bool:
        """Tries a step until it is done. False when the whole is to stop instead."""
        while not self._stop.is_set():
            try:
                if step(api):
                    return True
            except NotReached:
                pass  # it starts, or starts again
            except Failure as error:
                self.doing = f"{self.doing.partition(':')[0]}: {error.message}"
            self._stop.wait(LOOK_EVERY)
        return False

    def _portal(self, api: Api) -> bool:
        health = api.get("/health")
        waits = [f"{check['name']} ({check['detail']})" for check in health["checks"] if check["status"] != "ok"]
        self.doing = f"the portal answers: {', '.join(waits)}" if waits else "the portal answers"
        return not waits

    def _publish(self, api: Api) -> bool:
        """Publishes those that changed since they were published last; what somebody made of them since stays."""
        self.doing = "the bundled scripts are published"
        known = {script["id"] for script in api.pages("/scripts", {}, limit=10_000)}
        hashes = self._folder.published()
        for script in self._scripts:
            if hashes.get(script.name) == script.hash and script.name in known:
                continue
            self.doing = f"the bundled scripts are published: {script.name}"
            if api.send("PUT", f"/scripts/{script.name}", text=script.source, id=new_id()).get("outcome") is None:
                return False
            hashes[script.name] = script.hash
            self._folder.remember_published(hashes)
        return True

    def _wait_for_node(self, api: Api) -> bool:
        if self._node is None:
            return True
        self.doing = f"this machine becomes the node {self._node}"
        found = api.get("/nodes", {"state": "online", "limit": 500})["items"]
        return any(node["id"] == self._node for node in found)

    def _wait_for_facts(self, api: Api) -> bool:
        if self._node is None:
            return True
        self.doing = f"{FIRST_SCRIPT} runs on {self._node}"
        if api.get(f"/scripts/{FIRST_SCRIPT}")["retired"]:
            return True
        query = {"script": FIRST_SCRIPT, "node": self._node, "state": "succeeded", "limit": 1}
        return bool(api.get("/jobs", query)["items"])
