"""A bounded memory in order of arrival, as a frozen value."""

from typing import Generic, Self, TypeVar

from immutables import Map
from msgspec import Struct

V = TypeVar("V")


class Recent(Struct, Generic[V], frozen=True):
    """The last `limit` things added, by key. Adding a key again replaces its value and keeps its place."""

    limit: int
    items: Map[str, V] = Map()
    order: Map[int, str] = Map()
    first: int = 0
    next: int = 0

    def add(self, key: str, value: V) -> Self:
        items = self.items.set(key, value)
        if key in self.items:
            return type(self)(self.limit, items, self.order, self.first, self.next)
        order, first, after = self.order.set(self.next, key), self.first, self.next + 1
        if after - first > self.limit:
            items = items.delete(order[first])
            order = order.delete(first)
            first += 1
        return type(self)(self.limit, items, order, first, after)

    def oldest(self) -> V | None:
        """The value that is forgotten next, or None while nothing has been forgotten yet."""
        return self.items[self.order[self.first]] if self.first else None

    def get(self, key: str) -> V | None:
        return self.items.get(key)

    def __contains__(self, key: str) -> bool:
        return key in self.items
