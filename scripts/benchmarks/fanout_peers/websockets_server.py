"""Python's websockets on uvloop, by its own `broadcast`. Prints its port, obeys "EVENTS SCOPED"."""

import asyncio
import sys
import time

import uvloop
from websockets.asyncio.server import ServerConnection, broadcast, serve

EVENT_BYTES = 300


def make_event() -> str:
    head = f'{{"type":"event","sent":{time.monotonic_ns()},"fill":"'
    return head + "x" * (EVENT_BYTES - len(head) - 2) + '"}'


async def hold(connection: ServerConnection) -> None:
    await connection.wait_closed()


async def main() -> None:
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    async with serve(
        hold, "127.0.0.1", 0, compression=None, ping_interval=None, backlog=1024
    ) as server:
        print(next(iter(server.sockets)).getsockname()[1], flush=True)
        while line := await lines.readline():
            for _ in range(int(line.split()[0])):
                broadcast(server.connections, make_event())
                await asyncio.sleep(0)


uvloop.run(main())
