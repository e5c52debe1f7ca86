"""`fleetbus up`: all of fleetbus on this machine. It starts the service commands as children and looks after them."""

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import FrameType

import click

from fleetbus import credentials, logs, status
from fleetbus.address import check_free, is_loopback, url_of
from fleetbus.commands.options import data_option
from fleetbus.credentials import Fleet
from fleetbus.datafolder import DataFolder
from fleetbus.errors import Failure, NotReached
from fleetbus.settings import default_data, embedded, from_environment
from fleetbus.startup import Startup
from fleetbus.supervisor import Child, Supervisor
from jumpscripts import bundled

#: In which they are stopped: first nothing new comes in, last the views have seen all of it.
STOP_ORDER = ("portal", "agent", "handlers", "archiver", "projections")
#: Seconds that jobs have to end when everything stops.
GRACE = 5
#: Seconds between two looks at the children.
LOOK_EVERY = 0.2


@click.command("up")
@data_option
@click.option("--host", default=None, help="Where the portal listens. [FLEETBUS_HOST, 127.0.0.1]")
@click.option("--port", type=click.IntRange(1, 65535), default=None, help="Its port. [FLEETBUS_PORT, 8000]")
@click.option("--no-agent", is_flag=True, help="Do not make this machine a node.")
def up(data: str | None, host: str | None, port: int | None, no_agent: bool) -> None:
    """Run all of fleetbus on this machine, without any server. Ctrl-C stops it."""
    logs.only_trouble("up")
    settings = from_environment()
    folder = DataFolder(Path(data).expanduser() if data else settings.data or default_data())
    host, port = host or settings.host, port or settings.port
    with folder.held(), _stopping() as stop:
        check_free(host, port)
        House(folder, host, port, with_agent=not no_agent).run(stop)


class House:
    """The services under one roof."""

    def __init__(self, folder: DataFolder, host: str, port: int, *, with_agent: bool) -> None:
        self._folder = folder
        self._host, self._port = host, port
        self._environ = {**os.environ, **embedded(folder.path), "FLEETBUS_DATA": str(folder.path)}
        self._node = folder.node() if with_agent else None
        self._supervisor = Supervisor()

    def run(self, stop: threading.Event) -> None:
        """Until `stop` is set. Raises `NotReached` when a service cannot run."""
        url = url_of(self._host, self._port)
        click.echo(f"address   {url}\nfolder    {self._folder.path}")
        if not is_loopback(self._host):
            click.echo("everybody who can reach this address can try to log in, and without TLS read along")
        try:
            self._start("handlers")
            self._start("projections")
            self._start("archiver")
            if self._node is not None:
                self._start("agent", "--node", self._node, "--data", str(self._folder.agent), "--grace", str(GRACE))
            # the portal makes the first account, too, when there is none yet
            fleet = _log_in(self._folder, url)
            _remember(fleet, self._folder)
            self._start("portal", "--host", self._host, "--port", str(self._port))
            with Startup(fleet, self._folder, bundled(), self._node) as startup:
                self._look_after(startup, stop)
        finally:
            self._supervisor.stop(STOP_ORDER)
            _forget(url)

    def _start(self, name: str, *args: str) -> None:
        self._supervisor.add(Child(name, [name, *args], self._environ, self._folder.logs))

    def _look_after(self, startup: Startup, stop: threading.Event) -> None:
        with status.for_terminal() if sys.stdout.isatty() else status.Plain() as shown:
            while not stop.wait(LOOK_EVERY):
                for child in self._supervisor.look():
                    shown.happened(child)
                    _give_up_with(child)
                shown.show(list(self._supervisor.children.values()), startup)
            shown.stopping()


def _give_up_with(child: Child) -> None:
    if child.state == "gave up":
        raise NotReached(f"{child.name} cannot run: {child.last_words()}", f"all of it: {child.log}")


@contextmanager
def _stopping() -> Iterator[threading.Event]:
    """Set by the first Ctrl-C, SIGTERM or end of the terminal; the second ends everything at once."""
    stop = threading.Event()

    def on_signal(number: int, _frame: FrameType | None) -> None:
        if stop.is_set():
            os._exit(128 + number)  # children die with this process
        stop.set()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _log_in(folder: DataFolder, url: str) -> Fleet:
    """Makes the first account and a token for this person. The password is shown here, and never again."""
    from portal.accounts import ADMIN, Accounts
    from projections.osis.open import open_documents

    with closing(open_documents(embedded(folder.path)["FLEETBUS_DOCUMENTS_URL"])) as documents:
        accounts = Accounts(documents)
        if password := accounts.first_start():
            click.echo(f"account   {ADMIN}\npassword  {password}   (shown this once)")
        token = next((known.token for known in credentials.load(folder.credentials).fleets if known.token), "")
        if not token or accounts.by_token(token) is None:
            token = accounts.make_token(ADMIN, f"fleetbus up on {socket.gethostname()}"[:100])
    fleet = Fleet(url, token)
    credentials.save(folder.credentials, credentials.Book(fleets=(fleet,), current=url))
    return fleet


def _remember(fleet: Fleet, folder: DataFolder) -> None:
    """Commands in other terminals go here from now on."""
    try:
        before = credentials.remember(credentials.config_file(), fleet).before
    except Failure as error:
        click.echo(f"commands find this with FLEETBUS_DATA={folder.path}, because: {error.message}")
        return
    if before:
        click.echo(f"commands in other terminals go here now, and to {before} again when this ends")


def _forget(url: str) -> None:
    """Commands go again where they went before."""
    path = credentials.config_file()
    with suppress(Failure):
        book = credentials.load(path)
        if book.current:
            credentials.save(path, book.without_current(url))
