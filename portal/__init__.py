"""The front of the house: REST API, pages and live streams. Sends commands, reads views, follows the log."""

from importlib.metadata import PackageNotFoundError, version

try:
    VERSION = version("fleetbus")
except PackageNotFoundError:  # a checkout that was not installed
    VERSION = "0"
