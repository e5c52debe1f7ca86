"""For commands that work on bus and documents themselves, so that nothing else need run."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from msgspec.structs import replace

from fleetbus.errors import Failure, NotReached, Wrong

if TYPE_CHECKING:
    from bus.ports import Bus
    from fleetbus.settings import Settings
    from projections.osis.documents import Documents
    from projections.projection import AnyProjection
    from projections.replay import Tell


class Direct(NamedTuple):
    """The log, the views, the projections that make them, and what shows progress."""

    bus: "Bus"
    documents: "Documents"
    views: "tuple[AnyProjection, ...]"
    tell: "Tell"


@contextmanager
def log_and_views(data: str | None, what: str) -> Iterator["Direct"]:
    """Opens bus and documents. Errors become those of the command line."""
    from bus.errors import BadUrl, BusError
    from fleetbus import logs, wiring
    from fleetbus.progress import progress
    from fleetbus.settings import masked
    from projections.generation import Dropped
    from projections.osis.errors import BadUrl as BadStorageUrl
    from projections.osis.errors import OsisError
    from projections.replay import ReplayRefused

    logs.only_trouble(what)
    try:
        settings = _settings(data)
        with wiring.log_and_views(settings) as (bus, documents), progress(what) as tell:
            yield Direct(bus, documents, wiring.views_of(settings), lambda done, total, _rate: tell(done, total))
    except ReplayRefused as error:
        raise Wrong(str(error)) from None
    except (BadUrl, BadStorageUrl) as error:
        raise Wrong(masked(str(error))) from None
    except Dropped as error:
        raise Failure(str(error), "run it again") from None
    except (BusError, OsisError) as error:
        raise NotReached(masked(str(error))) from None


def _settings(data: str | None) -> "Settings":
    """Those of the environment; where they name no storage, the folder of `fleetbus up`."""
    from fleetbus.datafolder import DataFolder
    from fleetbus.settings import default_data, from_environment

    settings = from_environment()
    if settings.bus_url and settings.documents_url and data is None:
        return settings
    folder = DataFolder(Path(data).expanduser() if data else settings.data or default_data())
    if not settings.bus_url and not (folder.path / "bus" / "bus.db").is_file():
        raise Wrong(
            f"there is no log in {folder.path}",
            "name the folder of a `fleetbus up` with --data, or set FLEETBUS_BUS_URL and FLEETBUS_DOCUMENTS_URL",
        )
    return replace(settings, data=folder.path)
