"""Who was heard lately. Heartbeats are telemetry: they are never in the log, and start anew with each holder.

A node is silent when nothing was heard of it for `SILENT_AFTER` seconds *since it was last heard or since the holder
began to listen*. The holder's own canary goes the same way as the heartbeats: while it does not come back, nobody
knows anything, and all leases stand still.
"""

import threading

#: Seconds without a heartbeat (agents send one every 5) after which a node counts as silent.
SILENT_AFTER = 20.0
#: Seconds between two canaries, and how long one may take before the ears count as shut.
CANARY_EVERY = 2.0
CANARY_WITHIN = 6.0


class Presence:
    """Written by the telemetry thread, asked by the loop. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._heard: dict[str, float] = {}
        #: Node -> the start of its agent that said goodbye: a heartbeat of it that comes late brings nobody back.
        self._left: dict[str, str] = {}
        self._began: float | None = None
        self._canary: float | None = None

    def hear(self, node: str, boot: str, now: float) -> None:
        with self._lock:
            if self._left.get(node) != boot:
                self._heard[node] = now

    def leave(self, node: str, boot: str) -> None:
        """The agent stopped in good order."""
        with self._lock:
            self._left[node] = boot
            self._heard.pop(node, None)

    def hear_canary(self, now: float) -> None:
        """The own canary came back. After a silence everybody's lease begins anew."""
        with self._lock:
            if self._canary is None or now - self._canary > CANARY_WITHIN:
                self._began = now
            self._canary = now

    def known(self, now: float) -> bool:
        """Whether the ears are open: otherwise silence means nothing."""
        with self._lock:
            return self._canary is not None and now - self._canary <= CANARY_WITHIN

    def silent(self, nodes: list[str], now: float) -> dict[str, float]:
        """Those of `nodes` that are silent, with the seconds of their silence."""
        if not self.known(now):
            return {}
        with self._lock:
            began = self._began if self._began is not None else now
            silence = {node: now - max(self._heard.get(node, began), began) for node in nodes}
        return {node: seconds for node, seconds in silence.items() if seconds > SILENT_AFTER}

    def heard(self, nodes: list[str], now: float) -> list[str]:
        """Those of `nodes` that were heard within a lease."""
        with self._lock:
            return [node for node in nodes if now - self._heard.get(node, float("-inf")) <= SILENT_AFTER]
