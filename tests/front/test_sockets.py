import os
import socket
import stat
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from yoi_daemon.front.sockets import (
    ListenFailed,
    ListeningSocket,
    adopt,
    open_sockets,
)
from yoi_daemon.model.addresses import Address, TcpAddress, UnixAddress
from yoi_daemon.model.errors import NotAllowed

ANY = TcpAddress("127.0.0.1", 0)


@pytest.fixture
def directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Short enough for a unix socket."""
    directory = Path("/tmp") / f"yoi-{os.getpid()}-{os.urandom(4).hex()}"
    directory.mkdir(mode=0o700)
    yield directory
    for left in directory.iterdir():
        left.unlink()
    directory.rmdir()


@pytest.fixture
def opening() -> Iterator["Opening"]:
    with ExitStack() as closing:
        yield Opening(closing)


class Opening:
    def __init__(self, closing: ExitStack) -> None:
        self._closing = closing

    def __call__(self, *addresses: Address) -> list[ListeningSocket]:
        opened = open_sockets(addresses)
        for listening in opened:
            self._closing.callback(listening.close)
        return opened


def test_the_bound_address_is_returned_and_answers(opening: Opening) -> None:
    for address in (ANY, TcpAddress("::1", 0), TcpAddress("localhost", 0)):
        (listening,) = opening(address)
        assert isinstance(listening.address, TcpAddress)
        assert listening.address.port > 0
        with socket.create_connection((listening.address.host, listening.address.port)):
            pass
        assert not listening.socket.get_inheritable()
        assert listening.socket.gettimeout() == 0


def test_a_name_is_bound_at_ipv4_first(opening: Opening) -> None:
    (listening,) = opening(TcpAddress("localhost", 0))
    assert listening.socket.family == socket.AF_INET


def test_a_port_in_use_is_named_with_what_to_do(opening: Opening) -> None:
    (first,) = opening(ANY)
    with pytest.raises(ListenFailed) as failure:
        open_sockets([first.address])
    assert failure.value.kind == "EADDRINUSE"
    assert str(failure.value) == (
        f"{first.address} is in use by another process: stop it, "
        "or set [api] listen to another address"
    )


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(ListenFailed, match=r"is no address of this machine: set \[observe\]"):
        open_sockets([TcpAddress("192.0.2.1", 0)], "[observe] listen")


def test_a_name_of_nothing_is_refused() -> None:
    with pytest.raises(ListenFailed, match="names no address"):
        open_sockets([TcpAddress("a" * 70, 0)])


def test_all_or_none(directory: Path, opening: Opening) -> None:
    (taken,) = opening(ANY)
    path = directory / "s"
    with pytest.raises(ListenFailed):
        open_sockets([UnixAddress(str(path)), taken.address])
    assert not path.exists()


def test_a_unix_socket_is_for_its_owner_alone(directory: Path, opening: Opening) -> None:
    path = directory / "s"
    before = os.umask(0)
    try:
        opening(UnixAddress(str(path)))
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_dead_daemons_socket_is_replaced_and_a_live_ones_never(
    directory: Path, opening: Opening
) -> None:
    address = UnixAddress(str(directory / "s"))
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(address.path)
    opening(address)
    inode = os.stat(address.path).st_ino
    with pytest.raises(ListenFailed, match="is in use by another process"):
        open_sockets([address])
    assert os.stat(address.path).st_ino == inode


def test_a_live_socket_whose_backlog_is_full_is_live(directory: Path) -> None:
    address = UnixAddress(str(directory / "s"))
    with socket.socket(socket.AF_UNIX) as live, ExitStack() as clients:
        live.bind(address.path)
        live.listen(0)
        for _ in range(2):
            client = clients.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            try:
                client.connect(address.path)
            except BlockingIOError:
                break
        with pytest.raises(ListenFailed, match="is in use"):
            open_sockets([address])


def test_closing_removes_our_file_and_no_other(directory: Path) -> None:
    path = directory / "s"
    (first,) = open_sockets([UnixAddress(str(path))])
    first.close()
    assert not path.exists()
    (first,) = open_sockets([UnixAddress(str(path))])
    path.unlink()
    (second,) = open_sockets([UnixAddress(str(path))])
    first.close()
    assert path.exists()
    second.close()
    second.close()


def test_a_file_at_the_sockets_path_is_kept(directory: Path) -> None:
    path = directory / "s"
    path.write_text("precious")
    with pytest.raises(ListenFailed, match="exists and is not a socket"):
        open_sockets([UnixAddress(str(path))])
    assert path.read_text() == "precious"


def test_a_path_that_cannot_be_is_refused(directory: Path) -> None:
    with pytest.raises(ListenFailed, match="longer than 107 bytes"):
        open_sockets([UnixAddress(str(directory / ("a" * 120)))])
    with pytest.raises(ListenFailed, match="directory that does not exist"):
        open_sockets([UnixAddress(str(directory / "missing" / "s"))])


@pytest.mark.skipif(os.geteuid() == 0, reason="root is refused nothing")
def test_a_directory_that_is_not_ours_is_not_allowed(directory: Path) -> None:
    directory.chmod(0o500)
    try:
        with pytest.raises(NotAllowed, match="make its directory writable"):
            open_sockets([UnixAddress(str(directory / "s"))])
    finally:
        directory.chmod(0o700)


def test_an_inherited_socket_is_made_safe() -> None:
    with socket.create_server(("127.0.0.1", 0)) as inherited:
        inherited.set_inheritable(True)
        adopted = adopt(inherited)
        assert not adopted.socket.get_inheritable()
        assert adopted.socket.gettimeout() == 0
        assert adopted.address == TcpAddress("127.0.0.1", inherited.getsockname()[1])
