import socket
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from yoi_daemon.front.accepting import AcceptedStream, close_gently, serve_connections
from yoi_daemon.front.sockets import open_sockets
from yoi_daemon.front.tls import BadCertificate, Certificate
from yoi_daemon.model.addresses import TcpAddress, UnixAddress

FILES = Path(__file__).parents[1] / "data" / "tls"


def _certificate(name: str = "server") -> Certificate:
    return Certificate(FILES / f"{name}.pem", FILES / f"{name}.key")


@pytest.mark.parametrize(
    ("chain", "key", "part", "says"),
    [
        ("none.pem", "server.key", "certificate", "there is none of this name"),
        ("server.pem", "none.key", "key", "there is none of this name"),
        ("server.pem", "renewed.key", "key", "is the key of another certificate"),
        ("server.pem", "encrypted.key", "key", "is encrypted"),
        ("make", "server.key", "certificate", "no PEM chain"),
        ("server.pem", "make", "certificate", "no PEM chain"),
        ("server.key", "server.key", "certificate", "no PEM chain"),
        (".", "server.key", "certificate", "cannot be read"),
    ],
)
def test_an_unusable_certificate_names_its_part(chain, key, part, says) -> None:
    with pytest.raises(BadCertificate, match=says) as caught:
        Certificate(FILES / chain, FILES / key)
    assert caught.value.part == part


def test_a_file_without_end_is_not_read_to_it() -> None:
    with pytest.raises(BadCertificate, match="is larger than"):
        Certificate(Path("/dev/zero"), FILES / "server.key")


def test_the_public_certificate_is_the_first_of_the_chain_without_the_key() -> None:
    pem = _certificate().pem
    assert pem.count("BEGIN") == 1
    assert (FILES / "server.pem").read_text().startswith(pem)


def test_nothing_old_is_spoken_and_nothing_negotiated_again() -> None:
    context = _certificate().context
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.options & ssl.OP_NO_RENEGOTIATION
    assert context.options & ssl.OP_NO_COMPRESSION
    assert context.num_tickets == 0


async def _echo(stream: AcceptedStream) -> None:
    while data := await stream.receive_some():
        await stream.send_all(data)
    await close_gently(stream, 1)


@asynccontextmanager
async def _serving(
    certificate: Certificate, serve=_echo, *, handshake_s: float = 10
) -> AsyncGenerator[tuple[int, trio.Event]]:
    (listening,) = open_sockets([TcpAddress("127.0.0.1", 0)])
    assert isinstance(listening.address, TcpAddress)
    draining = trio.Event()
    async with trio.open_nursery() as nursery:
        await nursery.start(
            partial(
                serve_connections,
                [listening.socket],
                serve,
                listener="x",
                most=10,
                certificate=certificate,
                handshake_s=handshake_s,
                draining=draining,
            )
        )
        yield listening.address.port, draining
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def _open(port: int) -> AsyncGenerator[trio.SSLStream[trio.SocketStream]]:
    context = ssl.create_default_context(cafile=FILES / "ca.pem")
    async with await trio.open_tcp_stream("127.0.0.1", port) as raw:
        stream = trio.SSLStream(raw, context, server_hostname="127.0.0.1")
        await stream.do_handshake()
        yield stream


async def test_it_is_spoken_and_ended_in_order() -> None:
    async with _serving(_certificate()) as (port, _), _open(port) as stream:
        assert stream.version() == "TLSv1.3"
        await stream.send_all(b"well?")
        assert await stream.receive_some() == b"well?"
        # close_notify of ours, and then theirs: anything else raises.
        await stream.unwrap()


async def test_the_server_ends_its_half_with_close_notify_and_drops_the_rest() -> None:
    async def says_and_ends(stream: AcceptedStream) -> None:
        await stream.send_all(b"bye")
        await close_gently(stream, 5)

    async with _serving(_certificate(), says_and_ends) as (port, _), _open(port) as stream:
        await stream.send_all(b"x" * 1_000_000)
        assert await stream.receive_some() == b"bye"
        assert await stream.receive_some() == b""  # not a cut: that would raise


async def test_plain_http_on_a_tls_listener_gets_advice() -> None:
    async with (
        _serving(_certificate()) as (port, _),
        await trio.open_tcp_stream("127.0.0.1", port) as plain,
    ):
        await plain.send_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        answer = b"".join([part async for part in plain])
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"https://" in answer


async def test_trio_alone_ends_every_connection_for_it() -> None:
    """The negative control: `trio.serve_listeners` over TLS, without containment."""
    (listening,) = open_sockets([TcpAddress("127.0.0.1", 0)])
    assert isinstance(listening.address, TcpAddress)
    plain = trio.SocketListener(trio.socket.from_stdlib_socket(listening.socket))
    with pytest.RaisesGroup(trio.BrokenResourceError, flatten_subgroups=True):
        async with trio.open_nursery() as nursery:
            listener = trio.SSLListener(plain, _certificate().context)
            await nursery.start(trio.serve_listeners, _echo_all, [listener])
            async with await trio.open_tcp_stream("127.0.0.1", listening.address.port) as peer:
                await peer.send_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                await peer.receive_some()
            await trio.sleep_forever()


async def _echo_all(stream: trio.abc.Stream) -> None:
    async for data in stream:
        await stream.send_all(data)


async def test_a_silent_handshake_is_cut(autojump_clock) -> None:
    async with (
        _serving(_certificate(), handshake_s=5) as (port, _),
        await trio.open_tcp_stream("127.0.0.1", port) as silent,
    ):
        began = trio.current_time()
        assert await silent.receive_some() == b""
        assert trio.current_time() - began == 5


async def test_handshakes_end_when_draining() -> None:
    async with (
        _serving(_certificate(), handshake_s=3600) as (port, draining),
        await trio.open_tcp_stream("127.0.0.1", port) as silent,
    ):
        await trio.testing.wait_all_tasks_blocked()
        draining.set()
        assert await silent.receive_some() == b""


async def test_a_renewed_certificate_is_for_the_connections_that_come() -> None:
    certificate = _certificate()
    async with _serving(certificate) as (port, _), _open(port) as before:
        certificate.use(_certificate("renewed").load())
        async with _open(port) as after:
            names = [one.getpeercert()["subject"][0][0][1] for one in (before, after)]
        assert names == ["server", "renewed"]
        await before.send_all(b"still?")
        assert await before.receive_some() == b"still?"


async def test_a_unix_socket_stays_plain(tmp_path) -> None:
    (listening,) = open_sockets([UnixAddress(str(tmp_path / "s"))])
    async with trio.open_nursery() as nursery:
        await nursery.start(
            partial(
                serve_connections,
                [listening.socket],
                _echo,
                listener="x",
                most=10,
                certificate=_certificate(),
                draining=trio.Event(),
            )
        )
        async with await trio.open_unix_socket(str(tmp_path / "s")) as plain:
            await plain.send_all(b"well?")
            assert await plain.receive_some() == b"well?"
        nursery.cancel_scope.cancel()
    assert listening.socket.family == socket.AF_UNIX
