"""The measuring of lists and watchers: what is asked for means something, and nothing missing goes unseen."""

import socket
import threading
from pathlib import Path

import pytest

from benchmarks.lists import PATHS, meant, write_fleet
from benchmarks.watching import watch
from bus.embedded import EmbeddedBus
from events.actors import PORTAL
from projections.osis.sqlite_plan import fields_of


@pytest.mark.parametrize("path", PATHS)
def test_every_path_means_a_list(path: str) -> None:
    where, sort, collection = meant(path)
    assert fields_of(where) or sort
    assert collection in path


def test_the_fleet_of_lists_has_its_nodes_and_jobs(tmp_path: Path) -> None:
    write_fleet(tmp_path, 60)
    bus = EmbeddedBus(tmp_path, PORTAL)
    with bus.stream("log").read_from("first") as reader:
        keys = [record.key for record in reader.read(1_000, 1.0)]
    bus.close()
    connected = [key for key in keys if key.startswith("event.node.connected")]
    assert (len(connected), keys.count("event.job.queued")) == (60, 60)
    assert len([key for key in keys if key.startswith("event.job.finished")]) == 10


def frames(*numbers: int) -> bytes:
    return b"".join(b'id: l:%d\ndata: {"n":%d,"sent":1.5}\n\n' % (n, n) for n in numbers)


def test_watchers_tell_what_is_missing_and_what_came_out_of_order(capsys: pytest.CaptureFixture[str]) -> None:
    sent = [(frames(0, 1)[:50], frames(0, 1)[50:] + frames(2)), (frames(0), frames(2)), (frames(0), frames(1, 1, 2))]
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connections = [server.accept()[0] for _ in sent]
            for part in (0, 1):
                for connection, pieces in zip(connections, sent, strict=True):
                    if part == 0:
                        connection.recv(4_096)
                    connection.sendall(b": here\n\n" * (1 - part) + pieces[part])
            for connection in connections:
                connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        found = watch(f"http://127.0.0.1:{server.getsockname()[1]}/events", {"Cookie": "a"}, 3, 3)
        thread.join(30)
    assert capsys.readouterr().out == "open\n"
    assert found.wrong == 2
    assert found.got in (8, 9)  # the last one's repetition counts, too, if it came before the others' ends
