"""Start, stop and show the servers of a checkout by hand."""

import shlex
import sys
import time
from pathlib import Path

import click

from tests.servers.errors import ServerError
from tests.servers.services import DEFAULT_DIRECTORY, Services

directory_option = click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    default=DEFAULT_DIRECTORY,
    help="Folder of the servers; .services in the checkout unless given.",
)


@click.group()
def cli() -> None:
    """Real servers for tests, on ports, in folders and with passwords of their own."""


@cli.command()
@directory_option
def up(directory: Path) -> None:
    """Start what does not run and print the addresses."""
    started = time.monotonic()
    services = Services(directory)
    services.up()
    click.echo(f"ready after {time.monotonic() - started:.1f} s", err=True)
    _print_environment(services)


@cli.command()
@directory_option
def down(directory: Path) -> None:
    """Stop what runs; data and addresses stay."""
    Services(directory).down()


@cli.command()
@directory_option
def status(directory: Path) -> None:
    """Say of each server whether it runs; exit with 1 unless all do."""
    services = Services(directory)
    for server in services.all:
        where = f"127.0.0.1:{server.port()}" if server.running else "-"
        click.echo(f"{server.name:12}{'running' if server.running else 'stopped':10}{where}")
    sys.exit(0 if services.running else 1)


@cli.command()
@directory_option
def env(directory: Path) -> None:
    """Print the addresses as lines for a shell: eval "$(python -m tests.servers env)"."""
    _print_environment(Services(directory))


def _print_environment(services: Services) -> None:
    for variable, value in services.environment().items():
        click.echo(f"export {variable}={shlex.quote(value)}")


if __name__ == "__main__":
    try:
        cli()
    except ServerError as problem:
        sys.exit(f"error: {problem}")
