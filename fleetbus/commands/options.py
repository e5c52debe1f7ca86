"""Options that many commands have, and the client that they make."""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fleetbus.output import FORMS, Form, Printer

if TYPE_CHECKING:
    from fleetbus.api import Api

F = TypeVar("F", bound=Callable[..., Any])


def output_options(function: F) -> F:
    """`-o` and `--json`; the function gets `out`."""

    @click.option(
        "-o",
        "--output",
        type=click.Choice(FORMS),
        default="table",
        help="The form of what is printed.",
        show_default=True,
    )
    @click.option("--json", "as_json", is_flag=True, help="The same as -o json.")
    @functools.wraps(function)
    def with_printer(*args: Any, output: Form, as_json: bool, **rest: Any) -> Any:
        return function(*args, out=Printer("json" if as_json else output), **rest)

    return with_printer  # type: ignore[return-value]


def talks(function: F) -> F:
    """`--url`, `--token`, and what `output_options` does; the function gets `api` and `out`."""

    @click.option("--url", default="", help="The portal's address. [FLEETBUS_URL]")
    @click.option(
        "--token", default="", help="Who you are; better in FLEETBUS_TOKEN, where process lists do not show it."
    )
    @functools.wraps(function)
    def with_api(*args: Any, url: str, token: str, **rest: Any) -> Any:
        with connect(url, token) as api:
            return function(*args, api=api, **rest)

    return output_options(with_api)  # type: ignore[return-value]


def connect(url: str = "", token: str = "") -> "Api":
    """A client of the portal that options, environment or files name."""
    from fleetbus.api import Api
    from fleetbus.credentials import find
    from fleetbus.settings import from_environment

    return Api(find(from_environment(), url, token))


data_option = click.option(
    "--data",
    type=click.Path(file_okay=False),
    default=None,
    help="The folder that holds everything. [FLEETBUS_DATA]",
)
