"""Everything that can be said, on one screen: the type, its shape, its version, and who may say it."""

from enum import Enum
from types import MappingProxyType

from msgspec import Struct

from events import archive, job, node, script, seat, telemetry


class Voice(Enum):
    """Who may say a type."""

    ANYONE = "anyone"  # a command, or a fact of another service
    SEAT = "seat"  # a decider, with the token of the seat
    NODE = "node"  # the agent of the node that `data.node` names
    ARCHIVER = "archiver"  # the archiver


class Definition(Struct, frozen=True):
    """One type: its payload, the version of that shape, and its voice."""

    payload: type[Struct]
    voice: Voice
    version: int = 1


_A, _S, _N = Voice.ANYONE, Voice.SEAT, Voice.NODE

TYPES = MappingProxyType(
    {
        # commands
        "command.job.submit": Definition(job.SubmitJob, _A),
        "command.job.cancel": Definition(job.CancelJob, _A),
        "command.job.retry": Definition(job.RetryJob, _A),
        "command.script.publish": Definition(script.PublishScript, _A),
        "command.script.retire": Definition(script.RetireScript, _A),
        "command.node.maintenance": Definition(node.SetMaintenance, _A),
        "command.node.roles": Definition(node.SetRoles, _A),
        "command.node.invite": Definition(node.InviteNode, _A),
        "command.node.join": Definition(node.JoinNode, _A),
        "command.node.remove": Definition(node.RemoveNode, _A),
        # the log and the seat
        "event.log.created": Definition(seat.LogCreated, _A),
        "event.seat.taken": Definition(seat.SeatTaken, _S),
        "event.seat.tick": Definition(seat.SeatTick, _S),
        "event.command.rejected": Definition(seat.CommandRejected, _S),
        # scripts
        "event.script.published": Definition(script.ScriptPublished, _S),
        "event.script.retired": Definition(script.ScriptRetired, _S),
        # nodes, as the decider says
        "event.node.offline": Definition(node.NodeOffline, _S),
        "event.node.online": Definition(node.NodeOnline, _S),
        "event.node.maintenance_set": Definition(node.MaintenanceSet, _S),
        "event.node.roles_set": Definition(node.RolesSet, _S),
        "event.node.invited": Definition(node.NodeInvited, _S),
        "event.node.joined": Definition(node.NodeJoined, _S),
        "event.node.removed": Definition(node.NodeRemoved, _S),
        # nodes, as their agents say
        "event.node.connected": Definition(node.NodeConnected, _N),
        "event.node.disconnected": Definition(node.NodeDisconnected, _N),
        # jobs, as the decider says
        "event.job.waiting": Definition(job.JobWaiting, _S),
        "event.job.queued": Definition(job.JobQueued, _S),
        "event.batch.created": Definition(job.BatchCreated, _S, version=2),
        "event.job.cancel_requested": Definition(job.CancelRequested, _S),
        "event.job.expired": Definition(job.JobExpired, _S),
        "event.job.lost": Definition(job.JobLost, _S),
        # jobs, as the agents say
        "event.job.started": Definition(job.JobStarted, _N),
        "event.job.finished": Definition(job.JobFinished, _N),
        # the archive
        "event.archive.sealed": Definition(archive.ArchiveSealed, Voice.ARCHIVER),
        # telemetry
        "telemetry.heartbeat": Definition(telemetry.Heartbeat, _N),
        "telemetry.stats": Definition(telemetry.Stats, _N),
        "telemetry.output": Definition(telemetry.Output, _N),
        "telemetry.run": Definition(telemetry.QuietRun, _N),
        "telemetry.canary": Definition(telemetry.Canary, _A),
    }
)

#: First words after `event.` and `command.` that belong to fleetbus; other services take their own name.
PLATFORM_WORDS = frozenset(name.split(".")[1] for name in TYPES)

#: Types that nobody but the holder of the seat may say.
SEAT_TYPES = frozenset(name for name, definition in TYPES.items() if definition.voice is Voice.SEAT)
#: Types that only the agent of the node which `data.node` names may say.
NODE_TYPES = frozenset(name for name, definition in TYPES.items() if definition.voice is Voice.NODE)


def schema_id(event_type: str, version: int) -> str:
    """The `dataschema` of a version of a type, a URN: `urn:fleetbus:event.job.queued:1`."""
    return f"urn:fleetbus:{event_type}:{version}"


def service_of(event_type: str) -> str | None:
    """The service whose fact this is (`event.<service>.…`), or None when the type is the platform's."""
    words = event_type.split(".")
    if words[0] != "event" or len(words) < 3 or words[1] in PLATFORM_WORDS:
        return None
    return words[1]
