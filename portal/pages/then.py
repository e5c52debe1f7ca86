"""Pages of the past. Pure: what a page says is the same; where its links lead, and what it lets one do, is not.

This is done to the finished page, so that no template can forget it. The texts in it are escaped, so that a quote
after `href=` is always the template's own.
"""

import re
from collections.abc import Mapping
from html import escape
from urllib.parse import quote

#: Links to pages that can be of the past; `data-present` marks those that lead out of it.
_LINK = re.compile(r'(?<!data-present )href="(/(?:(?:nodes|jobs|batches|scripts|events)(?:[/?][^"]*)?|\?[^"]*)?)"')
_ASKING_FORM = re.compile(r'<form(?![^>]*data-present)[^>]*method="get"[^>]*>')
_COMMANDING_FORM = re.compile(r'<form(?![^>]*action="/logout")[^>]*method="post".*?</form>', re.DOTALL)
_COMMANDING_LINK = re.compile(r'<a\b[^>]*href="/(?:run|publish|invite)\b[^"]*"[^>]*>.*?</a>', re.DOTALL)


def as_of_then(page: str, key: str) -> str:
    """The page with links that stay at the moment, and without anything that commands."""
    page = _COMMANDING_LINK.sub("", _COMMANDING_FORM.sub("", page))
    hidden = f'<input type="hidden" name="as_of" value="{escape(key)}">'
    page = _ASKING_FORM.sub(lambda found: found[0] + hidden, page)
    return _LINK.sub(lambda found: f'href="{_with(found[1], key)}"', page)


def _with(path: str, key: str) -> str:
    mark = "&amp;" if "?" in path else "?"
    return f"{path}{'' if path.endswith('?') else mark}as_of={quote(key, safe='')}"


def kept(params: Mapping[str, str | list[str]]) -> list[tuple[str, str]]:
    """What a form that changes the moment keeps of the page's parameters."""
    pairs = ((name, value if isinstance(value, list) else [value]) for name, value in params.items())
    leave = ("as_of", "cursor", "at_least")
    return [(name, one) for name, values in pairs if name not in leave for one in values]
