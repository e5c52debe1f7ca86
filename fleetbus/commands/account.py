"""`fleetbus account`: the portal's accounts, for whoever administers its storage."""

from contextlib import closing
from pathlib import Path

import click
from msgspec.structs import replace

from fleetbus.commands.options import data_option, output_options
from fleetbus.errors import NotReached, Wrong
from fleetbus.output import Printer


@click.group("account")
def account() -> None:
    """Accounts of the portal."""


@account.command("reset")
@click.argument("name", default="admin")
@data_option
@output_options
def reset(*, out: Printer, name: str, data: str | None) -> None:
    """Give the account NAME (admin) a new password and print it, this once. Its sessions end; its tokens stay.

    An account that is not there is made. Works on FLEETBUS_DOCUMENTS_URL, or in the folder of `fleetbus up`: who may
    do that may do everything there. The portal need not be stopped.
    """
    from fleetbus import logs
    from fleetbus.settings import default_data, from_environment, located, masked
    from portal.accounts import AccountError, Accounts
    from projections.osis.errors import BadUrl, OsisError
    from projections.osis.open import open_documents

    logs.only_trouble("account reset")
    settings = from_environment()
    if data is not None:
        settings = replace(settings, data=Path(data).expanduser().absolute())
    if settings.data is None and not settings.documents_url:
        settings = replace(settings, data=default_data())
    url = located(settings).documents_url
    file = Path(url.removeprefix("sqlite://"))
    if url.startswith("sqlite://") and not file.is_file():
        raise Wrong(
            f"there are no accounts in {file}",
            "name their storage with FLEETBUS_DOCUMENTS_URL, or a folder with --data",
        )
    try:
        with closing(open_documents(url)) as documents:
            password = Accounts(documents).reset_password(name)
    except (AccountError, BadUrl) as error:
        raise Wrong(masked(str(error))) from None
    except OsisError as error:
        raise NotReached(masked(str(error))) from None
    out.done(password, {"account": name, "password": password})
