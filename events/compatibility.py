"""Whether a schema may take the place of another under the same version. Pure.

Records of the old shape are in logs for ever, and readers of the old shape run beside new ones during an upgrade. So
under one version a shape may only gain optional fields: what old writers wrote stays valid, and old readers find all
that they know and pass over the rest. Anything else is a new version, with an upcast of the old one.
"""

from collections.abc import Iterator, Mapping
from typing import Any

Schema = Mapping[str, Any]

#: Words that say nothing about what is valid.
_PROSE = frozenset({"$schema", "$id", "title", "description", "default", "examples", "$defs"})
#: Words that are compared by rules of their own.
_RULED = frozenset({"properties", "required", "enum", "type", "$ref", "anyOf", "items", "additionalProperties"})


def refusals(old: Schema, new: Schema) -> list[str]:
    """What old readers or old records could not take, a sentence for each; [] when `new` may take `old`'s place."""
    return list(dict.fromkeys(_Comparison(old, new).compare(old, new, "", frozenset())))


class _Comparison:
    def __init__(self, old: Schema, new: Schema) -> None:
        self._old_defs: Mapping[str, Any] = old.get("$defs", {})
        self._new_defs: Mapping[str, Any] = new.get("$defs", {})

    def compare(self, old: Any, new: Any, path: str, inside: frozenset[tuple[str, str]]) -> Iterator[str]:
        if not isinstance(old, Mapping) or not isinstance(new, Mapping):
            if old != new:
                yield f"{path or 'the whole'}: what it may be has changed"
            return
        refs = (str(old.get("$ref", "")), str(new.get("$ref", "")))
        if any(refs):
            if refs not in inside:
                inside |= {refs}
                yield from self.compare(
                    self._resolve(old, self._old_defs), self._resolve(new, self._new_defs), path, inside
                )
            return
        yield from self._types(old, new, path)
        yield from self._enums(old, new, path)
        yield from self._fields(old, new, path, inside)
        yield from self._choices(old, new, path, inside)
        for word, below in (("items", "[]"), ("additionalProperties", ".*")):
            if word in old or word in new:
                yield from self.compare(old.get(word, True), new.get(word, True), path + below, inside)
        yield from self._limits(old, new, path)

    def _resolve(self, schema: Schema, defs: Mapping[str, Any]) -> Any:
        name = str(schema.get("$ref", "")).rpartition("/")[2]
        return defs[name] if name else schema

    def _types(self, old: Schema, new: Schema, path: str) -> Iterator[str]:
        before, after = _as_set(old.get("type")), _as_set(new.get("type"))
        if lost := before - after:
            yield f"{_at(path)}: the type {_list(lost)} is no longer allowed, but records have it"
        elif gained := after - before:
            yield f"{_at(path)}: the type {_list(gained)} is new, and old readers cannot take it"

    def _enums(self, old: Schema, new: Schema, path: str) -> Iterator[str]:
        before, after = _as_set(old.get("enum")), _as_set(new.get("enum"))
        if lost := before - after:
            yield f"{_at(path)}: the value {_list(lost)} was removed, but records have it"
        if gained := after - before:
            yield f"{_at(path)}: the value {_list(gained)} is new, and old readers cannot take it"

    def _fields(self, old: Schema, new: Schema, path: str, inside: frozenset[tuple[str, str]]) -> Iterator[str]:
        before, after = old.get("properties", {}), new.get("properties", {})
        was, now = set(old.get("required", ())), set(new.get("required", ()))
        for name in sorted(before.keys() | after.keys()):
            at = f"{path}.{name}" if path else name
            if name not in after:
                yield f"{at}: the field was removed, but records have it, and old readers look for it"
            elif name in now - was:
                new_one = "is new and" if name not in before else "has become"
                yield f"{at}: the field {new_one} required, but there are records without it"
            elif name in was - now:
                yield f"{at}: the field has become optional, but old readers require it"
            if name in before and name in after:
                yield from self.compare(before[name], after[name], at, inside)

    def _choices(self, old: Schema, new: Schema, path: str, inside: frozenset[tuple[str, str]]) -> Iterator[str]:
        before, after = old.get("anyOf", []), new.get("anyOf", [])
        if len(before) != len(after):
            yield f"{_at(path)}: it was one of {len(before)} shapes, and is one of {len(after)} now"
            return
        for place, (one, other) in enumerate(zip(before, after, strict=True), 1):
            yield from self.compare(one, other, path if len(before) == 1 else f"{path}|{place}", inside)

    def _limits(self, old: Schema, new: Schema, path: str) -> Iterator[str]:
        for word in sorted((old.keys() | new.keys()) - _PROSE - _RULED):
            if old.get(word) != new.get(word):
                yield f"{_at(path)}: {word} was {old.get(word, 'not set')}, and is {new.get(word, 'not set')} now"


def _at(path: str) -> str:
    return path or "the whole"


def _as_set(value: Any) -> set[Any]:
    return set() if value is None else set(value) if isinstance(value, list) else {value}


def _list(values: set[Any]) -> str:
    return ", ".join(sorted(repr(value) for value in values))
