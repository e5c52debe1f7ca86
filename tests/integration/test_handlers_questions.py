"""Handlers ask where the log ends over a connection of its own, which may be lost without harm."""

import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest

from events.actors import HANDLERS
from tests.contract.bus_contract import RabbitEngine
from tests.servers.management import Management
from tests.waiting import wait_until

pytestmark = pytest.mark.slow

SOON = 60.0


def test_handlers_keep_the_seat_when_the_broker_closes_the_connection_that_asks(
    rabbitmq_management: Management, amqp_vhost: str, tmp_path: Path
) -> None:
    engine = RabbitEngine(rabbitmq_management, amqp_vhost)
    vhost = quote(engine.vhost, safe="")

    def connections() -> set[str]:
        return {each["name"] for each in rabbitmq_management.ask("GET", f"vhosts/{vhost}/connections")}

    def of_seat() -> set[str]:
        consumers = rabbitmq_management.ask("GET", f"consumers/{vhost}")
        details = [one["channel_details"] for one in consumers if one["queue"]["name"] == "seat.fleet"]
        # the broker knows them some seconds after the consumer
        return {each["connection_name"] for each in details if each}

    env = {**os.environ, "FLEETBUS_BUS_URL": engine.url(HANDLERS), "FLEETBUS_DATA": str(tmp_path)}
    with (tmp_path / "log").open("wb") as log:
        handlers = subprocess.Popen([sys.executable, "-m", "fleetbus", "handlers"], env=env, stdout=log, stderr=log)
    try:
        wait_until(lambda: of_seat() and len(connections()) == 2, deadline=SOON, what="the seat and two connections")
        seat, (other,) = of_seat(), connections() - of_seat()
        rabbitmq_management.ask("DELETE", f"connections/{quote(other, safe='')}")
        wait_until(lambda: len(connections() - {other}) == 2, deadline=SOON, what="another connection that asks")
        wait_until(lambda: of_seat() == seat, deadline=SOON, what="the broker to know who holds the seat")
        assert handlers.poll() is None
    finally:
        handlers.terminate()
        handlers.wait(SOON)
        engine.close()
