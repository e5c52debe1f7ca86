"""Which fleets this person may talk to, and with which token. Kept in files that nobody else can read.

The person's own file is `$XDG_CONFIG_HOME/fleetbus/credentials.json`; `fleetbus up` writes a second one of the same
form into its data folder. One of the fleets is the current one: where commands go that name no address.
"""

import contextlib
import os
import stat
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from fleetbus.errors import Failure, NotReached
from fleetbus.settings import Settings

FILE = "credentials.json"
#: Where a portal is unless somebody says otherwise.
DEFAULT_URL = "http://127.0.0.1:8000"
_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")


class Fleet(Struct, frozen=True, omit_defaults=True):
    """A portal, and the token it knows this person by."""

    url: str
    token: str = ""


class Book(Struct, frozen=True, omit_defaults=True):
    """What a file holds. `current` is the URL of the fleet that commands go to, `before` what it was earlier."""

    fleets: tuple[Fleet, ...] = ()
    current: str = ""
    before: str = ""

    def token(self, url: str) -> str:
        """The token for this address and no other; "" when there is none."""
        return next((fleet.token for fleet in self.fleets if same(fleet.url, url)), "")

    def with_fleet(self, fleet: Fleet) -> "Book":
        """The fleet is known, and current from now on."""
        others = [other for other in self.fleets if not same(other.url, fleet.url)]
        before = self.before if same(self.current, fleet.url) else self.current
        return Book(fleets=(*others, fleet), current=fleet.url, before=before)

    def without_current(self, url: str) -> "Book":
        """What was current before `url` is so again."""
        return replace(self, current=self.before, before="") if same(self.current, url) else self


def same(one: str, other: str) -> bool:
    """Whether two addresses name the same portal; all names of the loopback are one."""
    return _normal(one) == _normal(other)


def _normal(url: str) -> tuple[str, str, str]:
    parts = urlsplit(url.rstrip("/"))
    host, colon, port = parts.netloc.lower().rpartition(":")
    if not colon or port.endswith("]"):
        host, port = parts.netloc.lower(), "443" if parts.scheme == "https" else "80"
    return parts.scheme, f"{'127.0.0.1' if host in _LOOPBACK else host}:{port}", parts.path


def config_file() -> Path:
    """The person's own file."""
    base = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(base).expanduser() / "fleetbus" / FILE


def load(path: Path) -> Book:
    """An empty book when there is no file. Raises `Failure` when others can read it, or it cannot be read."""
    try:
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise NotReached(f"others can read the tokens in {path}", f"chmod 600 {path}")
        return msgspec.json.decode(path.read_bytes(), type=Book)
    except FileNotFoundError:
        return Book()
    except (OSError, msgspec.DecodeError) as error:
        raise NotReached(
            f"cannot read {path}: {error}", "remove it, and log in again with `fleetbus login URL`"
        ) from None


def save(path: Path, book: Book) -> None:
    """Replaces the file in one step; it is for its owner alone. Raises `Failure`."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # mkstemp makes files of mode 0600
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{FILE}-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(msgspec.json.format(msgspec.json.encode(book), indent=2) + b"\n")
            Path(name).replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(name).unlink()
            raise
    except OSError as error:
        raise Failure(f"cannot write {path}: {error.strerror}") from None


def remember(path: Path, fleet: Fleet) -> Book:
    """Adds the fleet to a file, as its current one; returns what the file holds now."""
    book = load(path).with_fleet(fleet)
    save(path, book)
    return book


def find(settings: Settings, url: str = "", token: str = "") -> Fleet:
    """Where to go and who to be: what was given, else the environment, else the files. A token is for its URL only."""
    books = [load(settings.data / FILE)] if settings.data else []
    books.append(load(config_file()))
    url = url or settings.url or next((book.current for book in books if book.current), "") or DEFAULT_URL
    known = next((found for book in books if (found := book.token(url))), "")
    return Fleet(url.rstrip("/"), token or settings.token or known)
