"""What is said about jumpscripts."""

from typing import Annotated

from msgspec import Meta, Struct

from events.names import ScriptName, Sha256, Text

#: The largest source of a jumpscript, in characters: a delivery must carry it.
MAX_SOURCE = 256_000

Source = Annotated[str, Meta(min_length=1, max_length=MAX_SOURCE)]


class PublishScript(Struct, frozen=True, kw_only=True):
    """Asks that `name` mean this source from now on. Jobs that are under way keep the version they started with."""

    name: ScriptName
    source: Source


class RetireScript(Struct, frozen=True, kw_only=True):
    """Asks that no new job may name this script."""

    name: ScriptName


class ScriptPublished(Struct, frozen=True, kw_only=True):
    """`name` means this source from now on; `hash` is the SHA-256 of its UTF-8 bytes."""

    name: ScriptName
    hash: Sha256
    source: Source
    #: Who published it: the actor of the command.
    by: str


class ScriptRetired(Struct, frozen=True, kw_only=True):
    """No new job may name this script, and no node runs it by itself."""

    name: ScriptName
    reason: Text = ""
