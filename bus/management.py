"""RabbitMQ's management API, as far as fleetbus needs it."""

from typing import Any, Self

import httpx

from bus.errors import Refused, Unreachable

#: Seconds that it may take for one answer.
TIMEOUT = 15.0


class Management:
    """At `http(s)://ADMIN:PASSWORD@HOST:PORT`. Errors name neither the administrator's password nor the user's."""

    def __init__(self, url: str) -> None:
        at = httpx.URL(url)
        self._where = f"{at.host}:{at.port or at.scheme}"
        self._client = httpx.Client(
            base_url=at.copy_with(username=None, password=None),
            auth=(at.username, at.password),
            timeout=TIMEOUT,
            trust_env=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def put(self, path: str, body: dict[str, Any]) -> None:
        self._ask("PUT", path, body)

    def post(self, path: str, body: dict[str, Any]) -> None:
        self._ask("POST", path, body)

    def delete(self, path: str) -> None:
        """Harmless when it is gone."""
        self._ask("DELETE", path, None, harmless=404)

    def get(self, path: str) -> Any:
        """What it answers, decoded; None when there is no such thing."""
        answer = self._ask("GET", path, None, harmless=404)
        return None if answer.is_error else answer.json()

    def _ask(self, method: str, path: str, body: dict[str, Any] | None, harmless: int = 0) -> httpx.Response:
        try:
            answer = self._client.request(method, f"api/{path}", json=body)
        except httpx.HTTPError as error:
            raise Unreachable(f"no answer from RabbitMQ's management API at {self._where}: {error}") from None
        if answer.is_error and answer.status_code != harmless:
            raise Refused(
                f"RabbitMQ's management API at {self._where} refuses {method} {path}: "
                f"{answer.status_code} {answer.text[:300]}"
            )
        return answer
