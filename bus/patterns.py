"""Routing patterns of a topic exchange: words between dots, `*` for one word, `#` for any number of words.

The rule is AMQP 0.9.1's (section 3.1.3.3, the topic exchange type), for the side that has no broker.
"""


def matches(pattern: str, key: str) -> bool:
    """Whether a routing key fits a binding pattern."""
    return _matches(pattern.split("."), key.split("."))


def _matches(pattern: list[str], words: list[str]) -> bool:
    if not pattern:
        return not words
    if pattern[0] == "#":
        return any(_matches(pattern[1:], words[skip:]) for skip in range(len(words) + 1))
    return bool(words) and pattern[0] in ("*", words[0]) and _matches(pattern[1:], words[1:])
