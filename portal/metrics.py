"""What the portal measures of itself, for Prometheus: a closed set of names, each with its unit."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """One registry for each portal, so that several may live in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        gauge = self._gauge
        self.requests = Counter(
            "fleetbus_portal_requests",
            "HTTP requests answered",
            ["method", "route", "status"],
            registry=self.registry,
        )
        self.request_seconds = Histogram(
            "fleetbus_portal_request_seconds",
            "Time until an answer, in seconds",
            ["method"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.commands = gauge("fleetbus_portal_commands_sent", "Commands sent since the start")
        self.watchers = gauge("fleetbus_portal_stream_watchers", "Event streams that are open")
        self.slow_watchers = gauge(
            "fleetbus_portal_stream_slow_watchers", "Event streams closed for being slow, since the start"
        )
        self.connected = gauge("fleetbus_bus_connected", "1 while the bus is connected, else 0")
        self.log_offset = gauge("fleetbus_log_next_offset", "Next offset of the log that the portal has read")
        self.log_age = gauge("fleetbus_log_time_age_seconds", "Age of log time, in seconds")
        self.refused = gauge("fleetbus_log_not_admitted", "Records not admitted since the start", "verdict")
        self.views_offset = gauge("fleetbus_views_next_offset", "Next offset of the log for the views")
        self.views_lag = gauge("fleetbus_views_lag_records", "Records of the log not in the views yet")
        self.views_diverged = gauge("fleetbus_views_diverged", "1 when the views belong to another log")
        self.set_aside = gauge("fleetbus_views_set_aside", "Documents that are set aside, since a projection failed")
        self.lag_records = gauge(
            "fleetbus_consumer_lag_records", "Records of its stream that a consumer has not read yet", "consumer"
        )
        self.lag_seconds = gauge(
            "fleetbus_consumer_lag_seconds", "Age of the oldest end of its stream not reached by a consumer", "consumer"
        )
        self.heard = gauge("fleetbus_consumer_heard_age_seconds", "Age of the last canary of a consumer", "consumer")
        self.gaps = gauge("fleetbus_agent_gaps", "Gaps in what agents counted, open for a minute")
        self.nodes = gauge("fleetbus_nodes", "Nodes by state", "state")
        self.jobs = gauge("fleetbus_jobs_unfinished", "Jobs that have not ended, by state", "state")

    def _gauge(self, name: str, what: str, *labels: str) -> Gauge:
        return Gauge(name, what, labels, registry=self.registry)

    def text(self) -> bytes:
        return generate_latest(self.registry)
