"""The command line. Each entity has a file of its own in `commands`, which is imported only when it is called."""

import difflib
import importlib
import os
import sys
from types import MappingProxyType

import click

from fleetbus.errors import NOT_REACHED
from fleetbus.output import no_colour

#: Heading -> command -> (the module that has it under the same name, what it does).
COMMANDS = MappingProxyType(
    {
        "Run fleetbus": {
            "up": ("up", "all of it on this machine, without any server"),
            "handlers": ("services", "one service: decides commands, delivers"),
            "projections": ("services", "one service: keeps the views"),
            "archiver": ("services", "one service: seals the log, for audits"),
            "portal": ("services", "one service: pages and the REST API"),
            "agent": ("services", "one service: runs jobs on this machine"),
            "setup": ("setup", "prepare RabbitMQ: users, rights, topology"),
            "emulate": ("emulate", "play many agents, to see what a fleet costs"),
        },
        "Use the fleet": {
            "run": ("run", "run a script on nodes, and show what comes of it"),
            "exec": ("run", "run a program on nodes that allow it"),
            "job": ("job", "list, show, logs, wait, why, cancel, retry"),
            "node": ("node", "list, show, roles, maintenance, invite, remove"),
            "script": ("script", "list, show, publish, retire"),
            "events": ("events", "tail the log, publish facts of a service"),
            "login": ("login", "get a token from a portal and remember it"),
        },
        "Look after the log": {
            "replay": ("replay", "make the views anew from the log"),
            "views": ("views", "compare the views with the log"),
            "audit": ("audit", "verify, prove, check-proof, report"),
            "log": ("log", "copy a log to another bus, recover what a power cut took"),
            "account": ("account", "reset a password"),
        },
    }
)
_ALL = {name: entry for group in COMMANDS.values() for name, entry in group.items()}


class Lazy(click.Group):
    """Knows its commands by name, and imports one only when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_ALL)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _ALL:
            return None
        module = importlib.import_module(f"fleetbus.commands.{_ALL[cmd_name][0]}")
        # `exec` and `log` are words that Python or a module has another use for
        command: click.Command = getattr(module, cmd_name, None) or getattr(module, f"{cmd_name}_")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in _ALL:
            close = difflib.get_close_matches(args[0], _ALL, n=1)
            hint = f"did you mean {close[0]}?" if close else f"there are: {', '.join(_ALL)}"
            raise click.UsageError(f"there is no command {args[0]!r}; {hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for heading, commands in COMMANDS.items():
            with formatter.section(heading):
                formatter.write_dl([(name, what) for name, (_, what) in commands.items()])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from fleetbus.settings import VARIABLES

        with formatter.section("Variables of the environment"):
            formatter.write_dl([(variable.name, variable.descr) for variable in VARIABLES])
        super().format_epilog(ctx, formatter)


EPILOG = """\b
Commands talk to the portal at FLEETBUS_URL with FLEETBUS_TOKEN, or to the fleet
that `fleetbus up` or `fleetbus login` remembered last.

\b
Exit codes: 0 done, 1 the job or check failed, 2 wrong usage,
3 cannot reach the fleet or not allowed.
"""


def _show_version(ctx: click.Context, _param: click.Parameter, wanted: bool) -> None:
    if not wanted or ctx.resilient_parsing:
        return
    from importlib.metadata import version

    click.echo(f"fleetbus {version('fleetbus')}")
    ctx.exit()


@click.group(
    cls=Lazy,
    help="One event-sourced system that runs a fleet of machines.",
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version and exit.",
)
@click.pass_context
def cli(ctx: click.Context) -> None:
    """The root of all commands."""
    if no_colour():
        ctx.color = False


def main(args: list[str] | None = None) -> None:
    """What the program `fleetbus` runs. Always ends with `SystemExit`."""
    try:
        cli.main(args=args, prog_name="fleetbus")
    except Exception as error:
        if os.environ.get("FLEETBUS_TRACEBACK"):
            raise
        click.echo(f"error: {type(error).__name__}: {error}", err=True)
        click.echo("  this is a mistake in fleetbus; FLEETBUS_TRACEBACK=1 shows where", err=True)
        sys.exit(NOT_REACHED)
