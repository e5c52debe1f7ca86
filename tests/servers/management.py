"""RabbitMQ's management API, as far as tests need it."""

from typing import Any
from urllib.parse import quote, urlsplit

import httpx

#: Seconds that the broker may take for one answer.
TIMEOUT = 30.0

EVERYTHING = {"configure": ".*", "write": ".*", "read": ".*"}


class Management:
    """The management API of one broker.

    `url` is its address with an administrator's login, `amqp_url` an AMQP address of the same
    broker and user.
    """

    def __init__(self, url: str, amqp_url: str) -> None:
        self.url = url.rstrip("/")
        self._amqp = urlsplit(amqp_url)

    def ask(self, method: str, path: str, body: object = None) -> Any:
        """Send a request to ``/api/<path>`` and return the answer, decoded; None when empty.

        Raises httpx.HTTPStatusError when the answer is an error.
        """
        answer = httpx.request(method, f"{self.url}/api/{path}", json=body, timeout=TIMEOUT, trust_env=False)
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def add_vhost(self, name: str) -> str:
        """Make a virtual host where the administrator may do all; return its AMQP address."""
        vhost = quote(name, safe="")
        user = self._amqp.username or ""
        self.ask("PUT", f"vhosts/{vhost}")
        self.ask("PUT", f"permissions/{vhost}/{user}", EVERYTHING)
        return self._amqp._replace(path=f"/{vhost}").geturl()

    def delete_vhost(self, name: str) -> None:
        """Delete a virtual host; the broker closes the connections to it."""
        self.ask("DELETE", f"vhosts/{quote(name, safe='')}")
