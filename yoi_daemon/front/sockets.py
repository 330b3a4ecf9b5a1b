"""Listening sockets, opened before any server runs, so that a fault is reported at start."""

import errno
import fcntl
import os
import socket
import stat
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from yoi_daemon.model.addresses import Address, TcpAddress, UnixAddress
from yoi_daemon.model.errors import NotAllowed, YoiError

BACKLOG = 512
"""Connections that the kernel queues; it lowers this to net.core.somaxconn if that is less."""
UNIX_PATH_BYTES = 107
"""sun_path of unix(7), less its final NUL."""


class ListenFailed(YoiError):
    """Cannot listen on `address`; `reason` says why and what to do, `kind` is the errno's name.

    `kind` is empty where no system call failed.
    """

    def __init__(self, address: Address, reason: str, kind: str = "") -> None:
        super().__init__(address, reason, kind)
        self.address = address
        self.reason = reason
        self.kind = kind

    def __str__(self) -> str:
        return f"{self.address} {self.reason}"


@dataclass(frozen=True)
class ListeningSocket:
    """A listening, non-blocking, close-on-exec socket, and the address it is bound to.

    `inode` names the file of a unix socket we made (device and inode number), else it is None.
    """

    socket: socket.socket
    address: Address
    inode: tuple[int, int] | None = None

    def close(self) -> None:
        """Closes the socket and removes its file, unless another daemon has replaced it."""
        self.socket.close()
        if isinstance(self.address, UnixAddress) and self.inode is not None:
            with suppress(OSError), _directory_lock(self.address):
                found = os.lstat(self.address.path)
                if (found.st_dev, found.st_ino) == self.inode:
                    os.unlink(self.address.path)


def open_sockets(
    addresses: Sequence[Address],
    key: str = "[api] listen",
    inherited: list[socket.socket] | None = None,
) -> list[ListeningSocket]:
    """Listens on every address, or on none. `key` is the setting to name in a fault.

    A socket in `inherited` that is bound to an address is taken out of it and used. A host name is bound at one address, IPv4 first; looking it up blocks, so this is for start-up.
    Raises `ListenFailed`, and `NotAllowed` where the operating system refuses.
    """
    opened: list[ListeningSocket] = []
    try:
        for address in addresses:
            if (found := _take(inherited or [], address, key)) is not None:
                opened.append(adopt(found))
            elif isinstance(address, UnixAddress):
                opened.append(_open_unix(address, key))
            else:
                opened.append(_open_tcp(address, key))
    except BaseException:
        for listening in opened:
            listening.close()
        raise
    return opened


def adopt(inherited: socket.socket) -> ListeningSocket:
    """Returns a listening socket from systemd (`LISTEN_FDS`), made safe to use.

    systemd passes descriptors without close-on-exec. The file of a unix socket stays systemd's.
    """
    inherited.setblocking(False)
    inherited.set_inheritable(False)
    if inherited.family != socket.AF_UNIX:
        inherited.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return ListeningSocket(inherited, bound_address(inherited))


def _take(inherited: list[socket.socket], address: Address, key: str) -> socket.socket | None:
    """Removes and returns the socket that is bound to `address`, if any."""
    if not inherited:
        return None
    if isinstance(address, TcpAddress):
        _, (host, port) = _resolve(address, key)
        address = TcpAddress(host, port)
    for index, candidate in enumerate(inherited):
        if bound_address(candidate) == address:
            return inherited.pop(index)
    return None


def _open_tcp(address: TcpAddress, key: str) -> ListeningSocket:
    family, where = _resolve(address, key)
    opened = socket.socket(family, socket.SOCK_STREAM)
    try:
        opened.setblocking(False)
        # A restarted daemon must not wait for its predecessor's connections to leave TIME_WAIT.
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Connections inherit it: a response is written whole, so waiting for more only adds latency.
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if family == socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        opened.bind(where)
        opened.listen(BACKLOG)
        return ListeningSocket(opened, bound_address(opened))
    except OSError as error:
        opened.close()
        raise _failure(address, error, key) from error


def _resolve(address: TcpAddress, key: str) -> tuple[int, tuple[str, int]]:
    try:
        found = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError) as error:
        reason = f"names no address of this machine: set {key} to an IP address, or to localhost"
        raise ListenFailed(address, reason) from error
    found.sort(key=lambda info: info[0] != socket.AF_INET)
    family, _, _, _, where = found[0]
    return family, (str(where[0]), address.port)


def _open_unix(address: UnixAddress, key: str) -> ListeningSocket:
    if len(os.fsencode(address.path)) > UNIX_PATH_BYTES:
        reason = f"is longer than {UNIX_PATH_BYTES} bytes: set {key} to a shorter path"
        raise ListenFailed(address, reason)
    opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        opened.setblocking(False)
        # Linux gives the file the mode of the unbound socket, so it is never open to others, not
        # even for a moment; a umask would do it too, but for every thread of the process.
        os.fchmod(opened.fileno(), 0o600)
        # From the check of the old socket to the listen on the new one no other daemon may act, or
        # each could take the other's for a stale one.
        with _directory_lock(address):
            _remove_stale(address, key)
            opened.bind(address.path)
            opened.listen(BACKLOG)
            made = os.lstat(address.path)
        return ListeningSocket(opened, address, (made.st_dev, made.st_ino))
    except OSError as error:
        opened.close()
        raise _failure(address, error, key) from error
    except ListenFailed:
        opened.close()
        raise


@contextmanager
def _directory_lock(address: UnixAddress) -> Generator[None]:
    directory = os.open(os.path.dirname(address.path) or ".", os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        yield
    finally:
        os.close(directory)


def _remove_stale(address: UnixAddress, key: str) -> None:
    try:
        found = os.lstat(address.path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise ListenFailed(address, f"exists and is not a socket: remove it, or set another {key}")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(address.path)
        except (ConnectionRefusedError, FileNotFoundError):
            with suppress(FileNotFoundError):
                os.unlink(address.path)
            return
        except BlockingIOError:
            pass  # its backlog is full, so a process listens
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def bound_address(listening: socket.socket) -> Address:
    """Returns the address of a listening socket."""
    name = listening.getsockname()
    if listening.family == socket.AF_UNIX:
        return UnixAddress(os.fsdecode(name))
    return TcpAddress(name[0], name[1])


def _failure(address: Address, error: OSError, key: str) -> YoiError:
    kind = errno.errorcode.get(error.errno or 0, "")
    if error.errno in (errno.EACCES, errno.EPERM):
        if isinstance(address, UnixAddress):
            advice = "make its directory writable for the daemon's user"
        else:
            advice = "a port below 1024 needs CAP_NET_BIND_SERVICE"
        return NotAllowed(f"listening on {address} is not allowed: {advice}, or set another {key}")
    reasons = {
        errno.EADDRINUSE: f"is in use by another process: stop it, or set {key} to another address",
        errno.EADDRNOTAVAIL: f"is no address of this machine: set {key} to one that is",
        errno.ENOENT: f"is in a directory that does not exist: make it, or set another {key}",
        errno.ENOTDIR: f"is in something that is no directory: set another {key}",
        errno.EMFILE: "cannot be opened, too many files are open: raise the limit (LimitNOFILE)",
    }
    reason = reasons.get(
        error.errno or 0, f"cannot be listened on ({error.strerror}): set another {key}"
    )
    return ListenFailed(address, reason, kind)
