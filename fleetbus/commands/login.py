"""`fleetbus login URL`: a token of this person's own, remembered for the commands that follow."""

import getpass
import socket
import sys

import click

from fleetbus.errors import Wrong


@click.command("login")
@click.argument("url")
@click.option("--account", help="The account; asked for when it is not given.")
@click.option("--with-token", is_flag=True, help="Read a token from stdin instead of making one.")
def login(url: str, account: str | None, with_token: bool) -> None:
    """Get a token from the portal at URL and remember it; commands go there from now on."""
    from fleetbus.api import Api
    from fleetbus.credentials import Fleet, config_file, remember
    from fleetbus.settings import BadValue
    from fleetbus.settings import url as read_url

    try:
        read_url("http", "https")(url)
    except BadValue as error:
        raise Wrong(f"{url!r} {error}") from None
    fleet = Fleet(
        url.rstrip("/"), sys.stdin.readline().strip() if with_token else _make_token(url.rstrip("/"), account)
    )
    with Api(fleet) as api:
        api.get("/nodes", {"limit": 1})  # the token is good, or this says what is wrong
    remember(config_file(), fleet)
    click.echo(f"commands go to {fleet.url} now; the token is in {config_file()}", err=True)


def _make_token(url: str, account: str | None) -> str:
    from fleetbus.api import Api
    from fleetbus.credentials import Fleet

    account = account or click.prompt("account", default="admin", err=True)
    password = click.prompt("password", hide_input=True, err=True)
    name = f"fleetbus login by {getpass.getuser()} on {socket.gethostname()}"[:100]
    with Api(Fleet(url)) as api:
        answer = api.send("POST", "/login", {"account": account, "password": password, "token_name": name})
    return str(answer["token"])
