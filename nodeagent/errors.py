"""What can go wrong in the agent, under one root. Each message says what, where, and what would be right."""


class AgentError(Exception):
    """Root of the agent's own errors."""


class JournalUnusable(AgentError):
    """The journal cannot be opened: the file is damaged, not a journal, or not writable."""


class JournalConflict(AgentError):
    """A mark does not follow from the one that the journal has: the job is known, or has gone on meanwhile."""


class JournalClosed(AgentError):
    """The journal was closed, or could not be written until then: the change is not in it."""


class AlreadyRunning(AgentError):
    """Another agent uses the same data folder."""


class NotAllowed(AgentError):
    """The bus does not let this agent be the node that it says it is: taken by another, removed, or refused."""
