"""Source and JSON with colours, made on the server. Classes of the style sheet, no inline styles."""

from functools import lru_cache
from typing import Any

from markupsafe import Markup
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import JsonLexer, PythonLexer

from portal.pages.wording import pretty

#: Characters of JSON that are coloured; more is shown plain.
MAX_COLOURED = 60_000

_PLAIN = HtmlFormatter(nowrap=True)


@lru_cache(maxsize=128)
def python_html(source: str) -> Markup:
    """A jumpscript, each line in a span of its own: the style sheet numbers them."""
    # stripnl would move the line numbers away from those in tracebacks
    coloured = highlight(source, PythonLexer(stripnl=False), _PLAIN)
    lines = coloured.removesuffix("\n").split("\n")
    return Markup("".join(f'<span class="l">{line}\n</span>' for line in lines))  # noqa: S704  # Pygments escapes


def json_html(value: Any) -> Markup:
    """A JSON value with indents."""
    text = pretty(value)
    if len(text) > MAX_COLOURED:
        return Markup("{}").format(text)
    return Markup(highlight(text, JsonLexer(), _PLAIN))  # noqa: S704  # Pygments escapes
