"""Whatever the documents, the filter and the sort: every adapter answers like the reference."""

import uuid
from collections import Counter
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from projections.osis.documents import Documents
from projections.osis.filters import (
    And,
    Contains,
    Eq,
    Exists,
    Filter,
    Gt,
    Gte,
    Has,
    In,
    Lt,
    Lte,
    Not,
    Or,
    Prefix,
)
from tests.contract.documents_reference import at, select

#: Characters that mean something to SQL, JSON, LIKE, GLOB, regular expressions or MongoDB.
NASTY = "aAbzÉéßñ\"'\\%_*?[](){}^$.|+-,:;/#~\n\t \x01\x7f\u2028\ue000\uffff\U0001f600\U0010ffff"

texts = st.text(NASTY, max_size=4)
numbers = st.one_of(
    st.integers(-3, 3),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([0.5, -0.0, 1.0, 2.0**53, 1e300, 5e-324]),
)
comparables = st.one_of(texts, numbers, st.booleans())
scalars = st.one_of(st.none(), comparables)
values = st.one_of(scalars, st.lists(scalars, max_size=3), st.dictionaries(st.sampled_from("xy"), scalars, max_size=2))

documents_lists = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "a": scalars,
            "b": scalars,
            "n": st.one_of(st.none(), st.integers(0, 1), st.fixed_dictionaries({}, optional={"x": scalars})),
            "any": values,
            "list": st.lists(st.one_of(scalars, st.fixed_dictionaries({"x": scalars})), max_size=3),
        },
    ),
    max_size=12,
).map(lambda bodies: [{"_id": f"{n:02}", **body} for n, body in enumerate(bodies)])

SCAN = ["a", "b", "n.x", "n", "any", "any.x", "list", "list.x", "missing"]
fields = st.sampled_from(SCAN)
leaves = st.one_of(
    st.builds(Eq, fields, scalars),
    st.builds(In, fields, st.lists(scalars, max_size=3).map(tuple)),
    st.builds(Gt, fields, comparables),
    st.builds(Gte, fields, comparables),
    st.builds(Lt, fields, comparables),
    st.builds(Lte, fields, comparables),
    st.builds(Prefix, fields, texts),
    st.builds(Contains, fields, texts),
    st.builds(Has, fields, comparables),
    st.builds(Exists, fields),
)
filters: st.SearchStrategy[Filter] = st.recursive(
    leaves,
    lambda parts: st.one_of(
        st.lists(parts, max_size=3).map(lambda some: And(*some)),
        st.lists(parts, max_size=3).map(lambda some: Or(*some)),
        st.builds(Not, parts),
    ),
    max_leaves=5,
)
sorts = st.lists(
    st.sampled_from(["a", "-a", "b", "-b", "n.x", "-n.x", "_id", "-_id"]),
    max_size=3,
    unique_by=lambda key: key.lstrip("-"),
)


relaxed = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


@relaxed
@given(
    bodies=documents_lists,
    where=filters,
    sort=sorts,
    limit=st.integers(1, 5),
    indexed=st.booleans(),
    scan=st.sampled_from([[], ["a", "b"], SCAN]),
)
def test_pages_put_together_are_what_the_reference_selects(
    documents: Documents,
    bodies: list[dict[str, Any]],
    where: Filter,
    sort: list[str],
    limit: int,
    indexed: bool,
    scan: list[str],
) -> None:
    namespace = documents.namespace(f"h-{uuid.uuid4().hex[:12]}")
    if indexed or scan:
        namespace.declare("docs", indexes=[sort] if indexed else [], scan=scan)
    namespace.put_many("docs", bodies)
    expected = select(bodies, where, sort)
    found: list[dict[str, Any]] = []
    cursor = None
    while True:
        page = namespace.find("docs", where, sort=sort, limit=limit, after=cursor)
        assert page.total == len(expected)
        found += page.items
        cursor = page.next_cursor
        if cursor is None:
            break
        assert len(page.items) == limit
    documents.drop_namespace(namespace.name)
    assert found == expected


@relaxed
@given(bodies=documents_lists, field=fields, scan=st.booleans())
def test_the_texts_of_a_field_are_those_of_the_reference(
    documents: Documents, bodies: list[dict[str, Any]], field: str, scan: bool
) -> None:
    namespace = documents.namespace(f"h-{uuid.uuid4().hex[:12]}")
    if scan:
        namespace.declare("docs", scan=[field])
    namespace.put_many("docs", bodies)
    held = [at(body, field) for body in bodies]
    items = [item for one in held for item in (one if isinstance(one, list) else [one])]
    assert namespace.texts("docs", field) == sorted({item for item in items if isinstance(item, str)})
    documents.drop_namespace(namespace.name)


@relaxed
@given(bodies=documents_lists, where=filters, field=fields, scan=st.booleans())
def test_a_tally_counts_what_the_reference_selects(
    documents: Documents, bodies: list[dict[str, Any]], where: Filter, field: str, scan: bool
) -> None:
    namespace = documents.namespace(f"h-{uuid.uuid4().hex[:12]}")
    if scan:
        namespace.declare("docs", scan=SCAN)
    namespace.put_many("docs", bodies)
    held = [at(body, field) for body in select(bodies, where)]
    assert namespace.tally("docs", field, where) == Counter(one for one in held if isinstance(one, str))
    documents.drop_namespace(namespace.name)


@relaxed
@given(bodies=documents_lists)
def test_what_was_put_is_what_is_got(documents: Documents, bodies: list[dict[str, Any]]) -> None:
    namespace = documents.namespace(f"h-{uuid.uuid4().hex[:12]}")
    namespace.put_many("docs", bodies)
    assert list(namespace.iterate("docs")) == bodies
    assert namespace.get_many("docs", [body["_id"] for body in bodies]) == {body["_id"]: body for body in bodies}
    documents.drop_namespace(namespace.name)
