"""A run of the benchmarks as a value: where, with what, and what came out."""

from msgspec import Struct

from benchmarks.measure import Table


class Report(Struct, frozen=True):
    machine: dict[str, str]
    tables: list[Table]
