r"""The shapes of names, as patterns that msgspec checks when it decodes.

`$(?!\n)` is the end of the text in Python, where `$` alone lets a newline pass, and in JSON Schema's dialect, too.
"""

from typing import Annotated

from msgspec import Meta

UUID_PATTERN = r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$(?!\n)"
NODE_PATTERN = r"^[a-z0-9-]{1,63}$(?!\n)"
ROLE_PATTERN = r"^[a-z0-9-]+(\.[a-z0-9-]+)*$(?!\n)"
SCRIPT_PATTERN = r"^[a-z0-9_][a-z0-9_.-]{0,99}$(?!\n)"
SERVICE_PATTERN = r"^[a-z0-9-]{1,63}$(?!\n)"
TYPE_PATTERN = r"^(command|event|telemetry)(\.[a-z0-9_-]+)+$(?!\n)"
ACTOR_PATTERN = r"^(user|node|service|system):[A-Za-z0-9@._-]{1,100}$(?!\n)"
SHA256_PATTERN = r"^[0-9a-f]{64}$(?!\n)"

#: A UUID in its canonical lower-case text form.
Id = Annotated[str, Meta(pattern=UUID_PATTERN)]
#: A machine with an agent: 1 to 63 of a-z, 0-9 and "-".
NodeId = Annotated[str, Meta(pattern=NODE_PATTERN)]
#: A dotted role; who holds `computenode.kvm` also holds `computenode`.
Role = Annotated[str, Meta(pattern=ROLE_PATTERN, max_length=120)]
#: The name of a jumpscript.
ScriptName = Annotated[str, Meta(pattern=SCRIPT_PATTERN)]
#: A SHA-256 in 64 lower-case hexadecimal digits.
Sha256 = Annotated[str, Meta(pattern=SHA256_PATTERN)]
EventType = Annotated[str, Meta(pattern=TYPE_PATTERN, max_length=200)]
Actor = Annotated[str, Meta(pattern=ACTOR_PATTERN)]
#: A duration in seconds, zero or more.
Seconds = Annotated[float, Meta(ge=0)]
#: A wish for a duration in seconds, up to a year.
Span = Annotated[float, Meta(gt=0, le=366 * 86_400)]
#: A free text of at most 4,000 characters.
Text = Annotated[str, Meta(max_length=4000)]


def holds(roles: tuple[str, ...], role: str) -> bool:
    """Whether a node with `roles` holds `role`: itself, or one below it (`computenode.kvm` holds `computenode`)."""
    return any(held == role or held.startswith(role + ".") for held in roles)
