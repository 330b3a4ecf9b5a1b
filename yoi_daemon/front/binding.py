"""Opens the configured addresses, or uses the sockets that systemd passes."""

import socket
from contextlib import ExitStack

import msgspec

from yoi_daemon.front.sockets import ListenFailed, ListeningSocket, bound_address, open_sockets
from yoi_daemon.model.addresses import parse_listen
from yoi_daemon.model.configuration import listen_addresses
from yoi_daemon.model.directories import Directories
from yoi_daemon.model.errors import ConfigFault, ConfigurationError
from yoi_daemon.model.settings import Listen


class Bound(msgspec.Struct, frozen=True):
    """The daemon's listening sockets; `observe` is empty without the stream."""

    api: list[ListeningSocket]
    observe: list[ListeningSocket]


def listen_on(
    listen: Listen,
    section: str,
    directories: Directories,
    sockets: ExitStack,
    inherited: list[socket.socket],
) -> list[ListeningSocket]:
    """Opens the sockets of one section's `listen`; `sockets` closes them. Raises `ConfigurationError`."""
    addresses = [parse_listen(address) for address in listen_addresses(listen)]
    try:
        opened = open_sockets(addresses, f"[{section}] listen", inherited)
    except ListenFailed as error:
        fault = ConfigFault(
            file=str(directories.config_file), key=f"{section}.listen", expected=str(error)
        )
        raise ConfigurationError([fault]) from error
    for listening in opened:
        sockets.callback(listening.close)
    return opened


def refuse_unused(inherited: list[socket.socket]) -> None:
    """Refuses sockets of systemd that no section uses: their clients would wait for ever."""
    faults = [
        ConfigFault(
            file="yoi-daemon.socket",
            key="ListenStream",
            expected=f"{bound_address(unused)} is no address that [api] or [observe] listens on: set them alike",
        )
        for unused in inherited
    ]
    for unused in inherited:
        unused.close()
    if faults:
        raise ConfigurationError(faults)
