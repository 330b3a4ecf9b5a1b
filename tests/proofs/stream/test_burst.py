"""A burst at a healthy reader far away: it is not cut, and nothing is lost."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from urllib.parse import urlsplit

import pytest
import trio

from tests.e2e.conftest import start_daemon as start_daemon
from tests.proofs.stream.rig import PATIENCE_S, burst, slow_consumers, write_config

pytest.importorskip("trio_websocket")
from yoi_daemon.client.endings import Backoff
from yoi_daemon.client.messages import Bookmark, Cut, StreamFailure
from yoi_daemon.client.stream import subscribe
from yoi_daemon.model.events import ObservationEvent

pytestmark = pytest.mark.prove

BURST = 10_000
DELAY_S = 0.05
CHUNK_BYTES = 64 * 1024
IN_FLIGHT = 16
"""So many chunks are on the way at once: a path of 1 MiB each 50 ms, 20 MB/s."""


class Proxy:
    """Delays everything by `DELAY_S`, either way."""

    def __init__(self, host: str, port: int) -> None:
        self.connections = 0
        self.port = 0
        self._host = host
        self._port = port

    async def connect(self, _url: str) -> trio.abc.Stream:
        """A connection through it: the daemon is called by its own name all the same."""
        return await trio.open_tcp_stream("127.0.0.1", self.port)

    async def serve(self, client: trio.SocketStream) -> None:
        self.connections += 1
        async with (
            await trio.open_tcp_stream(self._host, self._port) as server,
            client,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(self._carry, client, server, nursery.cancel_scope)
            nursery.start_soon(self._carry, server, client, nursery.cancel_scope)

    async def _carry(
        self, source: trio.SocketStream, sink: trio.SocketStream, scope: trio.CancelScope
    ) -> None:
        on_the_way, arriving = trio.open_memory_channel[tuple[float, bytes]](IN_FLIGHT)

        async def take() -> None:
            async with on_the_way:
                async for data in source:
                    await on_the_way.send((trio.current_time() + DELAY_S, bytes(data)))

        async def give() -> None:
            async for due, data in arriving:
                await trio.sleep_until(due)
                await sink.send_all(data)

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(take)
                await give()
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        scope.cancel()


@asynccontextmanager
async def open_proxy(daemon) -> AsyncGenerator[Proxy]:
    address = urlsplit(daemon.observe)
    assert address.hostname
    assert address.port
    proxy = Proxy(address.hostname, address.port)
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    proxy.port = listener.socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(trio.serve_listeners, proxy.serve, [listener]))
        yield proxy
        nursery.cancel_scope.cancel()


class Followed:
    """What came to one reader behind the proxy, up to the last event or the first cut."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.cuts: list[str] = []
        self.connections = 0


async def follow_a_burst(daemon, size: int) -> Followed:
    followed = Followed()
    with trio.fail_after(PATIENCE_S):
        async with (
            open_proxy(daemon) as proxy,
            subscribe(
                daemon.observe,
                daemon.token,
                kinds=["gen.tick"],
                backoff=Backoff(first_s=0.1),
                connect=proxy.connect,
            ) as messages,
        ):
            async for message in messages:
                match message:
                    case Bookmark(reason="live"):
                        if not followed.cuts:
                            await trio.to_thread.run_sync(burst, daemon, BURST, size)
                    case ObservationEvent():
                        followed.numbers.append(message.data["number"])
                        if message.data["number"] == BURST - 1:
                            break
                    case StreamFailure():
                        followed.cuts.append(message.code)
                    case Cut():
                        followed.cuts.append(message.reason)
                        break
                    case _:
                        pass
            followed.connections = proxy.connections
    return followed


@pytest.mark.parametrize("size", [100, 1400])
async def test_a_healthy_reader_behind_a_delay_is_not_cut_and_loses_nothing(
    start_daemon, tmp_path, size
):
    daemon = start_daemon(write_config(tmp_path / "config"))
    followed = await follow_a_burst(daemon, size)
    assert followed.cuts == []
    assert followed.connections == 1
    assert followed.numbers == list(range(BURST))
    assert slow_consumers(daemon) == 0


CUT_BEHIND_128 = """
from yoi_daemon.eventlog.fanout import Subscriber
from yoi_daemon.eventlog.interface import PositionExpiredError
from yoi_daemon.sdk import Plugin
plugin = Plugin("broken")
take = Subscriber.write_next

def impatient(self, up_to=None):
    if self._fanout.cut - self.position > 128:
        raise PositionExpiredError(self._fanout.cut)
    return take(self, up_to)

Subscriber.write_next = impatient
"""


async def test_control_a_bound_on_messages_cuts_it(start_daemon, tmp_path):
    daemon = start_daemon(write_config(tmp_path / "config", broken=CUT_BEHIND_128))
    followed = await follow_a_burst(daemon, 1400)
    assert followed.cuts[0] == "slow_consumer"
    assert slow_consumers(daemon) == 1
