"""What can go wrong with a server for tests."""


class ServerError(Exception):
    """A server could not be started, or did not become ready; the message holds its log's end."""


class MissingPackagesError(ServerError):
    """Programs that the tests need are not installed, and cannot be by this user."""
