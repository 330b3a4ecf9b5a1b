"""The guarded observation server with a session that echoes, which the daemon's never does: for Autobahn.

usage: echo_server.py [lax]      Prints its port when ready; lax: text that is no UTF-8 is echoed too.
"""

import struct
import sys
from contextlib import suppress

import trio
import wsproto.frame_protocol
from trio_websocket import ConnectionClosed

from yoi_daemon.front import websocket
from yoi_daemon.front.connection import Connection, SessionHandler, UpgradeRequest
from yoi_daemon.front.sockets import open_sockets
from yoi_daemon.front.websocket import WebSocketLimits, serve_websocket
from yoi_daemon.model.addresses import TcpAddress
from yoi_daemon.model.frames import text_frame

BINARY = 0x82


class EchoSession(websocket._Session):
    async def _discard_messages(self) -> None:
        with suppress(ConnectionClosed):
            while True:
                message = await self._websocket.get_message()
                if isinstance(message, str):
                    self._outbox.put(text_frame(message.encode()))
                else:
                    self._outbox.put(struct.pack("!B", BINARY) + text_frame(message)[1:])
        self._peer_gone()


async def admit(request: UpgradeRequest) -> SessionHandler:
    async def hold(connection: Connection) -> None:
        await connection.wait_gone()

    return hold


async def main() -> None:
    (opened,) = open_sockets([TcpAddress("127.0.0.1", 0)])
    assert isinstance(opened.address, TcpAddress)
    print(opened.address.port, flush=True)
    limits = WebSocketLimits(message_bytes=1 << 20)
    await serve_websocket([opened.socket], admit, draining=trio.Event(), limits=limits)


if __name__ == "__main__":
    websocket._Session = EchoSession  # type: ignore[misc]
    if sys.argv[1:] == ["lax"]:
        wsproto.frame_protocol.getincrementaldecoder = lambda name: (  # type: ignore[assignment]
            lambda: __import__("codecs").getincrementaldecoder("latin-1")()
        )
    trio.run(main)
