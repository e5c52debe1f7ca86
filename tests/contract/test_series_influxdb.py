"""What series on InfluxDB promise beyond the port: outages, and rights that are missing."""

from collections.abc import Callable

import pytest

from projections.osis.errors import StorageFailed, Unreachable
from projections.osis.open import open_series
from projections.osis.series import SECOND
from tests.contract.points import NODE, cpu, read
from tests.contract.stores import Clock, influxdb_database, influxdb_say
from tests.servers.influxdb import InfluxDB

pytestmark = pytest.mark.servers


def test_influxdb_away_is_told_in_time_and_found_again(private_server: Callable[[type[InfluxDB]], InfluxDB]) -> None:
    server = private_server(InfluxDB)
    series = open_series(f"{server.url}/views", [NODE])
    now = int(Clock().now) * SECOND
    server.stop()
    with pytest.raises(Unreachable) as away:
        series.write([cpu("n1", now, 1.0)])
    assert server.password not in str(away.value) + repr(series)
    server.start()
    series.write([cpu("n1", now, 1.0)])
    server.restart()
    assert read(series, now, now + 1) == [(now, 1.0)]
    series.close()


def test_a_database_that_was_dropped_is_made_again(influxdb_url: str) -> None:
    with influxdb_database(influxdb_url) as url:
        series = open_series(url, [NODE])
        now = int(Clock().now) * SECOND
        series.write([cpu("n1", now, 1.0)])
        influxdb_say(influxdb_url, f'DROP DATABASE "{url.rpartition("/")[2]}"')
        series.write([cpu("n1", now, 2.0)])
        assert read(series, now, now + 1) == [(now, 2.0)]
        series.close()


def test_without_an_administrators_rights_the_missing_statement_is_told(influxdb_url: str) -> None:
    with influxdb_database(influxdb_url) as url:
        name = url.rpartition("/")[2]
        influxdb_say(influxdb_url, f"CREATE USER {name} WITH PASSWORD 'pa55'")
        theirs = url.replace(url.split("//")[1].split("@")[0], f"{name}:pa55")
        series = open_series(theirs, [NODE])
        with pytest.raises(StorageFailed) as refused:
            series.write([])
        assert "pa55" not in str(refused.value)
        influxdb_say(influxdb_url, f'CREATE DATABASE "{name}"')
        influxdb_say(influxdb_url, f'GRANT ALL ON "{name}" TO {name}')
        with pytest.raises(StorageFailed, match="CREATE RETENTION POLICY") as refused:
            series.write([])
        influxdb_say(influxdb_url, str(refused.value).partition("say: ")[2])
        series.write([cpu("n1", int(Clock().now) * SECOND, 1.0)])
        assert series.measurements() == ["node"]
        series.close()
        influxdb_say(influxdb_url, f"DROP USER {name}")
