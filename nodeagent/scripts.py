"""The scripts that this node has: their sources, in the journal, and their headers."""

import threading
from collections import OrderedDict

from msgspec import Struct

from events.header import Header, HeaderError, parse_header, script_hash
from nodeagent.journal import Journal

#: Scripts whose source and header are at hand in memory.
AT_HAND = 64


class Unusable(Exception):
    """A script that cannot run; the message is for its author."""


class MissingSource(Exception):
    """A script is named by its hash only, and its source is not here."""

    def __init__(self, name: str, hash: str) -> None:
        super().__init__(f"the source of {name} ({hash[:12]}) is not here")
        self.hash = hash


class Known(Struct, frozen=True):
    """One version of a script."""

    hash: str
    source: str
    header: Header


class Scripts:
    """Any thread may ask. `allows`: the capabilities that the node's owner switched on."""

    def __init__(self, journal: Journal, allows: frozenset[str]) -> None:
        self._journal = journal
        self._allows = allows
        self._lock = threading.Lock()
        self._at_hand: OrderedDict[tuple[str, str], Known] = OrderedDict()

    def find(self, name: str, hash: str, source: str | None) -> Known:
        """The script, from the `source` that came with a delivery or else from what is kept here.

        Raises `MissingSource`, and `Unusable` when the source is not the one with that hash or cannot be read.
        """
        with self._lock:
            known = self._at_hand.get((name, hash))
            if known is None:
                known = _read(name, hash, source or self._kept(name, hash))
                self._at_hand[name, hash] = known
            self._at_hand.move_to_end((name, hash))
            while len(self._at_hand) > AT_HAND:
                self._at_hand.popitem(last=False)
            return known

    def _kept(self, name: str, hash: str) -> str:
        source = self._journal.file.source(hash)
        if source is None:
            raise MissingSource(name, hash)
        return source

    def not_allowed(self, header: Header) -> str:
        """What the node's owner would have to switch on before the script may run; empty when nothing."""
        missing = sorted(set(header.requires) - self._allows)
        if not missing:
            return ""
        flags = " ".join(f"--allow {name}" for name in missing)
        return (
            f"{header.name} needs {', '.join(missing)}, which this node does not allow; its owner can start the agent "
            f"with {flags}"
        )


def _read(name: str, hash: str, source: str) -> Known:
    if script_hash(source) != hash:
        raise Unusable(f"the source that came for {name} is not the one with the hash {hash}")
    try:
        return Known(hash, source, parse_header(source, name))
    except HeaderError as error:
        raise Unusable(str(error)) from None
