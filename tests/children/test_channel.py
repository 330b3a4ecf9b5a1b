import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import memory_stream_one_way_pair, wait_all_tasks_blocked

from yoi_daemon.children.channel import Channel, Framing
from yoi_daemon.children.child import open_child
from yoi_daemon.children.failures import ChannelClosed, MessageTooLarge

FRAMINGS: tuple[Framing, ...] = ("line", "length")
ECHO = "import sys\nfor line in sys.stdin.buffer: sys.stdout.buffer.write(line)"


def loop(framing: Framing, max_bytes: int = 100) -> tuple[Channel, trio.testing.MemorySendStream]:
    """A channel that receives what it sends, and the stream in between."""
    sending, receiving = memory_stream_one_way_pair()
    return Channel(receiving, sending, framing=framing, max_bytes=max_bytes), sending


@pytest.mark.parametrize("framing", FRAMINGS)
async def test_messages_arrive_whole_and_in_order(framing):
    channel, sending = loop(framing)
    for message in (b"one", b"", b"x" * 100):
        await channel.send(message)
    await sending.aclose()
    assert [await channel.receive() for _ in range(4)] == [b"one", b"", b"x" * 100, None]


@given(
    messages=st.lists(st.binary(max_size=20).filter(lambda one: b"\n" not in one)),
    size=st.integers(1, 7),
    framing=st.sampled_from(FRAMINGS),
)
def test_messages_do_not_depend_on_the_pieces_they_come_in(messages, size, framing):
    async def exchange() -> list[bytes]:
        channel, sending = loop(framing)
        for message in messages:
            await channel.send(message)
        await sending.aclose()
        sent = b""
        while chunk := await channel._receiving.receive_some():
            sent += chunk
        channel, sending = loop(framing)
        received: list[bytes] = []
        for start in range(0, len(sent), size):
            await sending.send_all(sent[start : start + size])
        await sending.aclose()
        while (message := await channel.receive()) is not None:
            received.append(message)
        return received

    assert trio.run(exchange) == messages


@pytest.mark.parametrize("framing", FRAMINGS)
async def test_a_message_over_the_bound_is_refused_on_both_ends(framing):
    wide, sending = loop(framing, 1000)
    narrow = Channel(wide._receiving, sending, framing=framing, max_bytes=10)
    await wide.send(b"x" * 11)
    with pytest.raises(MessageTooLarge):
        await narrow.send(b"x" * 11)
    with pytest.raises(MessageTooLarge):
        await narrow.receive()


async def test_a_line_without_an_end_is_refused_at_the_bound():
    channel, sending = loop("line", 10)
    await sending.send_all(b"x" * 11)
    with pytest.raises(MessageTooLarge):
        await channel.receive()


@pytest.mark.parametrize("framing", FRAMINGS)
async def test_an_end_in_the_middle_of_a_message_is_no_end(framing):
    channel, sending = loop(framing)
    await sending.send_all(b"\0\0\0\5abc")
    await sending.aclose()
    with pytest.raises(ChannelClosed, match="in the middle"):
        await channel.receive()


async def test_a_line_break_in_a_line_is_an_error_of_the_sender():
    channel, _ = loop("line")
    with pytest.raises(ValueError, match="line break"):
        await channel.send(b"a\nb")


async def test_a_child_that_does_not_read_holds_the_sender_alone_and_a_cut_message_closes_the_channel(
    python,
):
    async with open_child(python("import time\ntime.sleep(600)", ask_s=0, term_s=0)) as child:
        channel = Channel(child.stdout, child.stdin, framing="line", max_bytes=1 << 20)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(channel.send, b"x" * (1 << 20))
            await wait_all_tasks_blocked(0.01)
            nursery.cancel_scope.cancel()
        with pytest.raises(ChannelClosed, match="cut off"):
            await channel.send(b"y")


async def test_a_child_answers_each_line_and_its_end_ends_the_channel(python):
    async with open_child(python(ECHO)) as child:
        channel = Channel(child.stdout, child.stdin, framing="line", max_bytes=100)
        for message in (b"one", b"two"):
            await channel.send(message)
            await wait_all_tasks_blocked(0)
        await child.stdin.aclose()
        assert [await channel.receive() for _ in range(3)] == [b"one", b"two", None]
        with pytest.raises(ChannelClosed):
            await channel.send(b"three")
