"""systemd's protocols, without its library: sd_notify(3), sd_watchdog_enabled(3), sd_listen_fds(3)."""

import os
import socket
from collections.abc import Mapping

FIRST_DESCRIPTOR = 3
"""SD_LISTEN_FDS_START of sd_listen_fds(3)."""
SEND_TIMEOUT_S = 1.0
"""Maximum time to wait for a manager that does not read: the message is dropped then."""


class Notifier:
    """Sends messages to the service manager at `$NOTIFY_SOCKET`; without one, `send` does nothing."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        # A leading @ stands for the NUL of an abstract address; see unix(7).
        address = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address

    def send(self, *assignments: str) -> bool:
        """Sends assignments such as `READY=1` as one message. Returns whether it was sent.

        Never raises: a service goes on without its manager.
        """
        if not self._address:
            return False
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sending:
                sending.settimeout(SEND_TIMEOUT_S)
                sending.sendto("\n".join(assignments).encode(), self._address)
        except OSError:
            return False
        return True


def watchdog_interval_s(environ: Mapping[str, str], pid: int) -> float | None:
    """Returns the seconds within which process `pid` is to send `WATCHDOG=1`; None without a watchdog."""
    usec = environ.get("WATCHDOG_USEC", "")
    if not usec.isdecimal() or int(usec) == 0 or environ.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None
    return int(usec) / 1e6


def inherited_sockets(environ: Mapping[str, str], pid: int) -> list[socket.socket]:
    """Returns the listening sockets that systemd passed to process `pid`, in the order of the `.socket` unit.

    They come without close-on-exec, which this sets. Call it once, before any descriptor is opened. Raises `OSError` where a descriptor is not a socket.
    """
    count = environ.get("LISTEN_FDS", "")
    if environ.get("LISTEN_PID") != str(pid) or not count.isdecimal():
        return []
    descriptors = range(FIRST_DESCRIPTOR, FIRST_DESCRIPTOR + int(count))
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    return [socket.socket(fileno=descriptor) for descriptor in descriptors]
