"""Keeps every byte that this process sends on connections it accepted: a file for each, in `$YOI_TEST_RECORD`.

The interpreter imports it before anything else, so that the program under test is the one a user starts.
What the process starts, or sends to others as their client, is not kept.
"""

import os
import socket
from itertools import count
from typing import Any
from weakref import WeakKeyDictionary, finalize

_files: WeakKeyDictionary[socket.socket, int] = WeakKeyDictionary()
_numbers = count()


def _accept(self: socket.socket) -> tuple[socket.socket, Any]:
    accepted, address = _socket_accept(self)
    name = os.path.join(_directory, f"{os.getpid()}-{next(_numbers)}")
    file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    _files[accepted] = file
    finalize(accepted, os.close, file)
    return accepted, address


def _send(self: socket.socket, data: Any, *flags: int) -> int:
    sent = _socket_send(self, data, *flags)
    _keep(self, data, sent)
    return sent


def _sendall(self: socket.socket, data: Any, *flags: int) -> None:
    _socket_sendall(self, data, *flags)
    _keep(self, data, memoryview(data).nbytes)


def _sendmsg(self: socket.socket, buffers: Any, *rest: Any) -> int:
    whole = b"".join(buffers)
    sent = _socket_sendmsg(self, [whole], *rest)
    _keep(self, whole, sent)
    return sent


def _keep(sender: socket.socket, data: Any, size: int) -> None:
    if sender in _files:
        os.write(_files[sender], bytes(memoryview(data).cast("B")[:size]))


if _directory := os.environ.pop("YOI_TEST_RECORD", ""):
    _socket_accept, _socket_send = socket.socket.accept, socket.socket.send
    _socket_sendall, _socket_sendmsg = socket.socket.sendall, socket.socket.sendmsg
    socket.socket.accept = _accept  # type: ignore[method-assign]
    socket.socket.send, socket.socket.sendall = _send, _sendall  # type: ignore[method-assign]
    socket.socket.sendmsg = _sendmsg  # type: ignore[method-assign]
