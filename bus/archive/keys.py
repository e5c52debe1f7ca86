"""The archiver's key: Ed25519, made at its first start. Who has the public half can check every seal.

PEM files: the private key is for its owner alone, the public one is given to whoever audits.
"""

from hashlib import sha256
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from bus.archive.files import write_durably

PRIVATE, PUBLIC = "archive.key", "archive.pub"


class BadKey(ValueError):
    """A file that is no key of the kind that is needed; the message says what it is."""


class PublicKey:
    """Checks signatures. `id` is the SHA-256 of its 32 bytes, in hexadecimal digits."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.id = sha256(raw).hexdigest()
        self._key = Ed25519PublicKey.from_public_bytes(raw)

    def signed(self, signature: bytes, text: bytes) -> bool:
        try:
            self._key.verify(signature, text)
        except InvalidSignature:
            return False
        return True


class PrivateKey:
    """Signs."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public = PublicKey(key.public_key().public_bytes_raw())

    def sign(self, text: bytes) -> bytes:
        return self._key.sign(text)

    @classmethod
    def generate(cls) -> "PrivateKey":
        return cls(Ed25519PrivateKey.generate())


def load_public(path: Path) -> PublicKey:
    """Raises `BadKey`, `OSError`."""
    try:
        key = load_pem_public_key(path.read_bytes())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise BadKey(f"{path} is no public key in PEM form: {error}") from None
    if not isinstance(key, Ed25519PublicKey):
        raise BadKey(f"{path} is no Ed25519 key; the archiver writes its own into {PUBLIC}")
    return PublicKey(key.public_bytes_raw())


def load_private(path: Path) -> PrivateKey:
    """Raises `BadKey`, `OSError`."""
    if (mode := path.stat().st_mode & 0o077) != 0:
        raise BadKey(f"others may read or write {path} (mode has {mode:03o}); right would be: chmod 600 {path}")
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise BadKey(f"{path} is no private key in PEM form without a passphrase: {error}") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise BadKey(f"{path} is no Ed25519 key")
    return PrivateKey(key)


def ensure_key(folder: Path) -> PrivateKey:
    """The key that is kept in the folder; made if there is none. Its public half lies beside it.

    Raises `BadKey`, `OSError`.
    """
    path = folder / PRIVATE
    if not path.exists():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        new = Ed25519PrivateKey.generate()
        write_durably(path, new.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), mode=0o600)
    key = load_private(path)
    public = folder / PUBLIC
    text = pem(key.public)
    if not public.exists() or public.read_bytes() != text:
        write_durably(public, text, mode=0o644)
    return key


def pem(key: PublicKey) -> bytes:
    loaded = Ed25519PublicKey.from_public_bytes(key.raw)
    return loaded.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
