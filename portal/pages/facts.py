"""What a machine says of itself, as rows for its page: the result of the jumpscript `facts`. Pure.

The result is read with care: it comes from a machine, and another version of the script may say more or less.
"""

from collections.abc import Iterator
from typing import Any

from msgspec import Struct

from portal.pages import wording


class Fact(Struct, frozen=True):
    """One row: what, and its value in words; with `share` (0 to 1) how full it is."""

    name: str
    value: str
    share: float | None = None


class Facts(Struct, frozen=True, kw_only=True):
    """Rows by subject, and where they come from."""

    job: str
    at: str
    system: list[Fact]
    filesystems: list[Fact]
    disks: list[Fact]
    nics: list[Fact]
    #: The whole result, for what has no row.
    raw: Any


def read_facts(job: dict[str, Any]) -> Facts:
    """The rows of a job of `facts` that ended well."""
    result = job.get("result")
    said: dict[str, Any] = result if isinstance(result, dict) else {}
    return Facts(
        job=job["id"],
        at=str(job.get("ended_at") or ""),
        system=list(_system(said)),
        filesystems=[_disk(one) for one in _dicts(said.get("filesystems"))],
        disks=[_disk(one) for one in _dicts(said.get("disks"))],
        nics=[_nic(one) for one in _dicts(said.get("nics"))],
        raw=result,
    )


def _dicts(value: Any) -> list[dict[str, Any]]:
    """A list of objects; an object of objects is one by name."""
    if isinstance(value, dict):
        return [{"name": name, **one} for name, one in value.items() if isinstance(one, dict)]
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


#: Subjects with rows of their own, and what is old as soon as it is said.
_NOT_SYSTEM = frozenset({"disks", "filesystems", "nics", "uptime_seconds"})


def _system(said: dict[str, Any]) -> Iterator[Fact]:
    for name, value in said.items():
        if name in _NOT_SYSTEM:
            continue
        if isinstance(value, dict):
            text = ", ".join(_part(key, one) for key, one in value.items() if _plain(one) and one != "")
            if text:
                yield Fact(_label(name), text, _share(value))
        elif _plain(value) and value != "":
            yield Fact(_label(name), _value(name, value))


def _share(said: dict[str, Any]) -> float | None:
    """How full something is, if it says so."""
    total, used, free = (said.get(name) for name in ("total_bytes", "used_bytes", "available_bytes"))
    if not isinstance(total, int | float) or total <= 0:
        return None
    if isinstance(used, int | float):
        return used / total
    return (total - free) / total if isinstance(free, int | float) else None


def _plain(value: Any) -> bool:
    return isinstance(value, str | int | float | bool)


#: Names within a subject that its value makes plain by itself.
_PLAIN_NAMES = frozenset({"name", "model", "version", "release"})


def _part(name: str, value: Any) -> str:
    said = _value(name, value)
    return said if name in _PLAIN_NAMES else f"{_label(name)} {said}"


def _label(name: str) -> str:
    return name.replace("_bytes", "").replace("_seconds", "").replace("_", " ")


def _value(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float) and ("bytes" in name):
        return wording.size(value)
    if isinstance(value, int | float) and name.endswith("_seconds"):
        return wording.duration(value)
    return str(value)


def _first(said: dict[str, Any], *names: str) -> Any:
    return next((said[name] for name in names if said.get(name) not in (None, "")), None)


def _disk(said: dict[str, Any]) -> Fact:
    name = str(_first(said, "mountpoint", "mount", "path", "name", "device") or "disk")
    total = _first(said, "total_bytes", "size_bytes", "total", "size")
    used = _first(said, "used_bytes", "used")
    about = [str(one) for one in (said.get("fstype"), said.get("model")) if one]
    if isinstance(total, int | float) and isinstance(used, int | float) and total > 0:
        return Fact(name, ", ".join([f"{wording.size(used)} of {wording.size(total)}", *about]), used / total)
    return Fact(name, ", ".join([*([wording.size(total)] if isinstance(total, int | float) else []), *about]))


def _nic(said: dict[str, Any]) -> Fact:
    name = str(_first(said, "name", "nic", "interface") or "nic")
    addresses = said.get("addresses") or [_first(said, "address", "ip", "ipv4"), said.get("ipv6"), said.get("mac")]
    texts = []
    for one in addresses if isinstance(addresses, list) else [addresses]:
        text = one.get("address") if isinstance(one, dict) else one
        if text:
            texts.append(str(text))
    mac = said.get("mac")
    if mac and str(mac) not in texts:
        texts.append(str(mac))
    if said.get("up") is False:
        texts.append("down")
    return Fact(name, "  ".join(texts))
