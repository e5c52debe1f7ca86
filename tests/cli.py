"""Commands of the command line in this process: quicker than a process of their own."""

from unittest.mock import patch

from click.testing import CliRunner, Result

from fleetbus import logs
from fleetbus.cli import cli


def invoke(*args: str) -> Result:
    """What the command prints, and its exit code. It does not take over the logs of this process, which are not its."""
    with patch.object(logs, "set_up"):
        return CliRunner().invoke(cli, args)
