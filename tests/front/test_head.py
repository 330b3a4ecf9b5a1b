from contextlib import suppress

import h11
import pytest

from yoi_daemon.front.head import HeadReader, HeadRefused

GOOD = b"POST /a?b=c HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nX-Y: caf\xc3\xa9\t1\r\n\r\nabc"


def _events(reader: HeadReader) -> list[h11.Event]:
    events: list[h11.Event] = []
    while True:
        event = reader.next_event()
        if event is h11.NEED_DATA or event is h11.PAUSED:
            return events
        assert isinstance(event, h11.Event)
        events.append(event)


def test_a_good_head_is_read_however_it_is_cut() -> None:
    for cut in range(1, len(GOOD)):
        reader = HeadReader()
        reader.receive_data(GOOD[:cut])
        events = _events(reader)
        assert reader.head_begun == (cut <= GOOD.index(b"\r\n\r\n") + 3)
        reader.receive_data(GOOD[cut:])
        events += _events(reader)
        assert isinstance(events[0], h11.Request)
        assert events[0].target == b"/a?b=c"
        body = b"".join(event.data for event in events if isinstance(event, h11.Data))
        assert body == b"abc"


def test_a_bad_line_end_is_refused_however_it_is_cut() -> None:
    for bad in (GOOD.replace(b"x\r\n", b"x\n"), GOOD.replace(b"x\r\n", b"x\rZ: y\r\n")):
        for cut in range(1, bad.index(b"\r\n\r\n")):
            reader = HeadReader()
            reader.receive_data(bad[:cut])
            with suppress(HeadRefused):  # where the bad end is in the first part
                _events(reader)
                reader.receive_data(bad[cut:])
                _events(reader)
            assert reader.refused is not None
            assert "bare LF" in reader.refused.detail


def test_h11_alone_lets_it_through() -> None:
    """The negative control for the bytes, the two lengths and the target."""
    for bad in (
        GOOD.replace(b"x\r\n", b"x\n"),
        GOOD.replace(b"Content-Length: 3", b"Content-Length: 3\r\nTransfer-Encoding: chunked"),
        GOOD.replace(b"/a", b"http://other/a"),
        GOOD.replace(b"X-Y", b"Origin: a\r\nOrigin: b\r\nX-Y"),
    ):
        theirs = h11.Connection(h11.SERVER)
        theirs.receive_data(bad)
        assert isinstance(theirs.next_event(), h11.Request)
        ours = HeadReader()
        ours.receive_data(bad)
        with pytest.raises(HeadRefused):
            ours.next_event()


@pytest.mark.parametrize("sizes", [(100, 431), (1000, None)])
def test_the_limit_is_on_the_whole_head_though_it_came_at_once(
    sizes: tuple[int, int | None],
) -> None:
    limit, status = sizes
    reader = HeadReader(limit)
    reader.receive_data(b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 100 + b"\r\n\r\n")
    if status is None:
        assert isinstance(reader.next_event(), h11.Request)
    else:
        with pytest.raises(h11.RemoteProtocolError) as error:
            reader.next_event()
        assert error.value.error_status_hint == status
        assert reader.refused is not None


def test_the_next_head_on_the_connection_is_held_to_the_same() -> None:
    reader = HeadReader()
    reader.receive_data(b"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\nHost: x\n\n")
    assert isinstance(reader.next_event(), h11.Request)
    assert isinstance(reader.next_event(), h11.EndOfMessage)
    reader.send(h11.Response(status_code=204, headers=[]))
    reader.send(h11.EndOfMessage())
    reader.start_next_cycle()
    with pytest.raises(HeadRefused):
        reader.next_event()


def test_an_upgrade_is_ignored_or_refused_unless_it_is_wanted() -> None:
    def head(upgrade: bytes) -> bytes:
        return b"GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: %b\r\n\r\n" % upgrade

    reader = HeadReader()
    reader.receive_data(head(b"h2c"))
    request = reader.next_event()
    assert isinstance(request, h11.Request)
    assert b"upgrade" not in dict(request.headers)
    for upgrade in (b"websocket", b"h2c, WebSocket"):
        reader = HeadReader()
        reader.receive_data(head(upgrade))
        with pytest.raises(HeadRefused, match="no WebSocket"):
            reader.next_event()
        reader = HeadReader(websocket=True)
        reader.receive_data(head(upgrade))
        assert isinstance(reader.next_event(), h11.Request)


@pytest.mark.parametrize(
    "host", [b"", b"localhost", b"a.b.", b"127.0.0.1:7420", b"[::1]:1", b"a_b-c", b"xn--p1ai"]
)
def test_hosts_that_pass(host: bytes) -> None:
    reader = HeadReader()
    reader.receive_data(b"GET / HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")
    assert isinstance(reader.next_event(), h11.Request)
