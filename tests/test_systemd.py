"""systemd's protocols, against real sockets and a real child."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from yoi_daemon.systemd import Notifier, inherited_sockets, watchdog_interval_s


@pytest.fixture
def manager(tmp_path_factory: pytest.TempPathFactory) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.settimeout(5)
        yield listening


@pytest.mark.parametrize("is_abstract", [True, False])
def test_one_message_carries_every_assignment(manager: socket.socket, is_abstract: bool) -> None:
    name = f"/tmp/yoi-notify-{os.getpid()}-{os.urandom(4).hex()}"
    manager.bind("\0" + name if is_abstract else name)
    notifier = Notifier({"NOTIFY_SOCKET": "@" + name if is_abstract else name})
    assert notifier.send("READY=1", "STATUS=It is well – really")
    assert manager.recv(4096).decode() == "READY=1\nSTATUS=It is well – really"
    if not is_abstract:
        os.unlink(name)


def test_without_a_manager_nothing_is_sent() -> None:
    assert not Notifier({}).send("READY=1")


def test_a_manager_that_is_gone_hurts_nobody() -> None:
    assert not Notifier({"NOTIFY_SOCKET": "/no/such/socket"}).send("READY=1")


def test_a_manager_that_reads_nothing_is_not_waited_for(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("yoi_daemon.systemd.SEND_TIMEOUT_S", 0.01)
    name = f"yoi-notify-{os.getpid()}-{os.urandom(4).hex()}"
    manager.bind("\0" + name)
    notifier = Notifier({"NOTIFY_SOCKET": "@" + name})
    assert notifier.send("WATCHDOG=1")
    assert not all(notifier.send("WATCHDOG=1") for _ in range(100_000))


@pytest.mark.parametrize(
    ("environ", "interval_s"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "7"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "often"}, None),
    ],
)
def test_who_is_to_feed_the_watchdog(environ: dict[str, str], interval_s: float | None) -> None:
    assert watchdog_interval_s(environ, 7) == interval_s


RECEIVER = """
import json, os, socket, sys
from yoi_daemon.systemd import inherited_sockets
pid = os.getpid() + int(sys.argv[1])
found = inherited_sockets({"LISTEN_PID": str(pid), "LISTEN_FDS": "2"}, os.getpid())
print(json.dumps([[one.getsockname()[1], one.get_inheritable()] for one in found]))
"""


@pytest.mark.parametrize(("other_pid", "count"), [(0, 2), (1, 0)])
def test_inherited_sockets_are_close_on_exec_and_only_for_the_process_they_are_for(
    other_pid: int, count: int
) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as first,
        socket.create_server(("127.0.0.1", 0)) as second,
    ):
        ports = [first.getsockname()[1], second.getsockname()[1]]
        # A shell puts them where systemd does; as with systemd, without close-on-exec.
        places = f"exec 3<&{first.fileno()} 4<&{second.fileno()}"
        outcome = subprocess.run(
            [
                "bash",
                "-c",
                f'{places}; exec "$@"',
                "_",
                sys.executable,
                "-c",
                RECEIVER,
                str(other_pid),
            ],
            pass_fds=[first.fileno(), second.fileno()],
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parents[1],
        )
    assert json.loads(outcome.stdout) == [[port, False] for port in ports][:count]


@pytest.mark.parametrize(
    "environ", [{}, {"LISTEN_PID": "1"}, {"LISTEN_PID": "1", "LISTEN_FDS": "x"}]
)
def test_without_sockets_there_are_none(environ: dict[str, str]) -> None:
    assert inherited_sockets(environ, 1) == []
