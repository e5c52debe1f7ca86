"""Seals: how they are written, signed and checked.

A seal's file holds the JSON of `events.archive.ArchiveSealed`, fields sorted by name, without spaces, and a newline.
What is signed is a line of its own, so that a signature means nothing else, and that JSON without `signature`.
"""

from typing import Any

import msgspec

from bus.archive.keys import PrivateKey, PublicKey
from events.archive import ArchiveSealed

#: What comes before the JSON in the text that is signed.
PURPOSE = b"fleetbus archive seal 1\n"

_encoder = msgspec.json.Encoder(order="sorted")
_decoder = msgspec.json.Decoder(ArchiveSealed)


class BadSeal(ValueError):
    """Not a seal, or not of this key; the message says why."""


def encode_seal(seal: ArchiveSealed) -> bytes:
    """The content of a seal's file."""
    return _encoder.encode(seal) + b"\n"


def decode_seal(content: bytes) -> ArchiveSealed:
    """Raises `BadSeal`, also when it was not written in the one way there is."""
    try:
        seal = _decoder.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadSeal(f"it is no seal: {error}") from None
    if encode_seal(seal) != content:
        raise BadSeal("it is not written as seals are: something was changed that JSON does not see")
    return seal


def signed_text(seal: ArchiveSealed) -> bytes:
    fields: dict[str, Any] = {name: getattr(seal, name) for name in seal.__struct_fields__ if name != "signature"}
    return PURPOSE + _encoder.encode(fields)


def sign(seal: ArchiveSealed, key: PrivateKey) -> ArchiveSealed:
    """The same with the key's id and its signature."""
    named = msgspec.structs.replace(seal, key_id=key.public.id)
    return msgspec.structs.replace(named, signature=key.sign(signed_text(named)).hex())


def check_signature(seal: ArchiveSealed, key: PublicKey) -> None:
    """Raises `BadSeal` unless this key signed it."""
    if seal.key_id != key.id:
        raise BadSeal(f"it was signed with another key: {seal.key_id[:16]}…, this one is {key.id[:16]}…")
    if not key.signed(bytes.fromhex(seal.signature), signed_text(seal)):
        raise BadSeal("the signature does not belong to what it says")
