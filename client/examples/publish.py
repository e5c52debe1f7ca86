"""Tells a fact of a service over AMQP.

FLEETBUS_BUS_URL=amqp://service.billing:PASSWORD@HOST:5672/VHOST python publish.py
"""

import os

from fleetbus_client import AmqpClient

with AmqpClient(os.environ["FLEETBUS_BUS_URL"]) as client:
    print(client.publish("event.billing.invoice.paid", "invoice 17", {"amount": 12.5}))
