"""The real process under what looks to it like systemd: it tells, it reloads on SIGHUP, it takes sockets."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

PATIENCE_S = 20
ACTIVATED = """
import os, sys
os.environ["LISTEN_PID"] = str(os.getpid())
os.environ["LISTEN_FDS"] = os.environ["TEST_LISTEN_FDS"]
# As systemd passes them: from 3 on, without close-on-exec.
for place, descriptor in enumerate(os.environ["TEST_DESCRIPTORS"].split(), 3):
    os.dup2(int(descriptor), place)
from yoi_daemon.cli.main import main
main()
"""


@pytest.fixture
def manager() -> Iterator[tuple[str, socket.socket]]:
    name = f"yoi-manager-{os.getpid()}-{os.urandom(4).hex()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind("\0" + name)
        listening.settimeout(PATIENCE_S)
        yield "@" + name, listening


def hear(manager: socket.socket) -> list[str]:
    return manager.recv(65_536).decode().split("\n")


def test_it_tells_and_reloads_on_a_hangup(start_daemon, config, manager):
    address, ear = manager
    (config / "yoi-daemon.toml").write_text("")
    daemon = start_daemon(config, NOTIFY_SOCKET=address)
    assert hear(ear)[0] == "READY=1"

    (config / "yoi-daemon.toml").write_text("[nope]\n")
    daemon.signal(signal.SIGHUP)
    assert hear(ear)[0] == "RELOADING=1"
    ready, status = hear(ear)
    assert (ready, status.endswith("; last reload refused")) == ("READY=1", True)
    _, page = daemon.request("GET", "/api/status")
    (told,) = page["diagnostics"]
    assert told["code"] == "reload_refused"
    assert "yoi-daemon.toml:1: nope" in told["message"]

    (config / "yoi-daemon.toml").write_text("")
    daemon.signal(signal.SIGHUP)
    assert hear(ear)[0] == "RELOADING=1"
    assert hear(ear)[0] == "READY=1"
    assert daemon.request("GET", "/api/status")[1]["diagnostics"] == []

    assert daemon.stop() == 0
    assert hear(ear)[0] == "STOPPING=1"


def test_the_runtime_directory_says_where_it_is(start_daemon, config, tmp_path):
    runtime = tmp_path / "runtime"
    runtime.mkdir()
    daemon = start_daemon(config, RUNTIME_DIRECTORY=str(runtime))
    files = [tmp_path / "state" / "daemon.json", runtime / "daemon.json"]
    assert files[0].read_text() == files[1].read_text()
    assert daemon.stop() == 0
    assert not any(file.exists() for file in files)


@pytest.fixture
def sockets() -> Iterator[list[socket.socket]]:
    with (
        socket.create_server(("127.0.0.1", 0)) as one,
        socket.create_server(("127.0.0.1", 0)) as other,
    ):
        yield [one, other]


def activate(config, state, sockets, listens, count=2) -> subprocess.Popen[str]:
    descriptors = [one.fileno() for one in sockets]
    return subprocess.Popen(
        [sys.executable, "-c", ACTIVATED, "run", "--config", config, "--state", state],
        env={key: value for key, value in os.environ.items() if not key.startswith("YOI__")}
        | {
            "TEST_LISTEN_FDS": str(count),
            "TEST_DESCRIPTORS": " ".join(map(str, descriptors)),
            "YOI__API__LISTEN": listens[0],
            "YOI__OBSERVE__LISTEN": listens[1],
        },
        pass_fds=descriptors,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def listens_of(sockets) -> list[str]:
    return [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]


def test_it_serves_on_sockets_that_outlive_it(config, tmp_path, sockets):
    """A client that comes between two daemons waits, and is served by the second."""
    pytest.importorskip("trio_websocket")
    listens = listens_of(sockets)
    for _ in range(2):
        # Before the daemon is there: the kernel takes the connection for it.
        with socket.create_connection(sockets[0].getsockname(), timeout=PATIENCE_S) as client:
            client.sendall(f"GET /healthz HTTP/1.1\r\nHost: {listens[0]}\r\n\r\n".encode())
            process = activate(config, tmp_path / "state", sockets, listens)
            assert client.recv(12) == b"HTTP/1.1 200"
            assert process.stdout
            line = process.stdout.readline()
            assert line == f"ready api=http://{listens[0]} observe=ws://{listens[1]}\n"
            process.terminate()
            _, err = process.communicate(timeout=PATIENCE_S)
            assert process.returncode == 0, err


def test_a_socket_that_no_setting_names_is_refused(config, tmp_path, sockets):
    listens = [listens_of(sockets)[0], "127.0.0.1:0"]
    process = activate(config, tmp_path / "state", sockets, listens)
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 78
    assert f"yoi-daemon.socket: ListenStream: {listens_of(sockets)[1]} is no address" in err
