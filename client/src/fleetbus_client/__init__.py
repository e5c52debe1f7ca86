"""Publish facts and send commands to fleetbus from any Python service: over AMQP, or over HTTP."""

from fleetbus_client.amqp_client import AmqpClient
from fleetbus_client.envelope import new_id
from fleetbus_client.errors import Closed, FleetbusError, Misuse, Problem, Refused, Unconfirmed
from fleetbus_client.http_client import HttpClient, Outcome, Run

__version__ = "0.1.0"

__all__ = [
    "AmqpClient",
    "Closed",
    "FleetbusError",
    "HttpClient",
    "Misuse",
    "Outcome",
    "Problem",
    "Refused",
    "Run",
    "Unconfirmed",
    "new_id",
]
