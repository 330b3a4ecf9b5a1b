import socket
from collections.abc import Callable
from contextlib import suppress
from typing import get_args

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, memory_stream_one_way_pair, wait_all_tasks_blocked

from tests.stream.transport import messages_in
from yoi_daemon.front.outbox import CHUNK_BYTES, OUTBOX_TRANSITIONS, Outbox, OutboxPhase
from yoi_daemon.model.frames import text_frame


class NeverTakes(trio.abc.SendStream):
    """A peer that does not read."""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.sleep_forever()

    async def wait_send_all_might_not_block(self) -> None:
        await trio.sleep_forever()

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


def _ignored() -> None: ...


def _outbox(stream: trio.abc.SendStream, on_lost: Callable[[], None] = _ignored) -> Outbox:
    return Outbox(stream, stall_s=10, on_lost=on_lost)


async def test_all_is_written_in_order_and_finished() -> None:
    sending, receiving = memory_stream_one_way_pair()
    outbox = _outbox(sending)
    pieces = [b"a" * 10, b"b" * (3 * CHUNK_BYTES + 1), b"", b"c"]
    for piece in pieces:
        outbox.put(piece)
    outbox.finish()
    outbox.put(b"too late")
    await outbox.run()
    await sending.aclose()
    assert b"".join([part async for part in receiving]) == b"".join(pieces)
    assert (outbox.unsent, outbox.lost) == (0, False)


async def test_a_write_without_progress_loses_the_peer(autojump_clock: MockClock) -> None:
    lost = trio.Event()
    outbox = _outbox(NeverTakes(), lost.set)
    outbox.put(b"x" * CHUNK_BYTES)
    begun = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(outbox.run)
        await outbox.room()
    assert trio.current_time() - begun == 10
    assert lost.is_set()
    assert outbox.stalled
    assert outbox.unsent == 0
    outbox.put(b"dropped")
    assert outbox.unsent == 0


async def test_a_slow_reader_that_makes_progress_is_kept(autojump_clock: MockClock) -> None:
    sending, receiving = memory_stream_one_way_pair()

    deliver = sending.send_all_hook
    assert deliver is not None

    async def slowly() -> None:
        await trio.sleep(9)
        await deliver()

    sending.send_all_hook = slowly
    outbox = _outbox(sending)
    begun = trio.current_time()
    outbox.put(b"x" * (5 * CHUNK_BYTES))
    outbox.finish()
    await outbox.run()
    assert not outbox.lost
    await sending.aclose()
    assert sum([len(part) async for part in receiving]) == 5 * CHUNK_BYTES
    assert trio.current_time() - begun == 5 * 9


async def test_a_cancelled_sender_leaves_whole_pieces() -> None:
    sending, receiving = memory_stream_one_way_pair()
    outbox = _outbox(sending)
    outbox.put(b"x" * CHUNK_BYTES)
    with trio.CancelScope() as scope:
        scope.cancel()
        await outbox.room()
    outbox.finish()
    await outbox.run()
    assert len(await receiving.receive_some(2 * CHUNK_BYTES)) == CHUNK_BYTES


async def test_a_cancelled_writer_wakes_waiting_tasks() -> None:
    lost = trio.Event()
    outbox = _outbox(NeverTakes(), lost.set)
    outbox.put(b"x" * CHUNK_BYTES)
    async with trio.open_nursery() as waiting, trio.open_nursery() as writing:
        waiting.start_soon(outbox.room)
        writing.start_soon(outbox.run)
        await wait_all_tasks_blocked()
        writing.cancel_scope.cancel()
    assert lost.is_set()
    assert outbox.ended


async def test_a_write_that_the_kernel_takes_whole_needs_no_task() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
        outbox = Outbox(stream, stall_s=10, on_lost=_ignored, descriptor=ours.fileno())
        outbox.put(b"at once")
        assert outbox.unsent == 0
        assert theirs.recv(100) == b"at once"
        big = b"y" * (4 << 20)
        outbox.put(big)
        assert 0 < outbox.unsent < len(big)
        received = bytearray()
        reading = trio.SocketStream(trio.socket.from_stdlib_socket(theirs))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(outbox.run)
            while len(received) < len(big):
                received += await reading.receive_some(1 << 20)
            await outbox.room(1)
            outbox.finish()
        assert bytes(received) == big


async def test_a_peer_that_is_gone_is_noticed_at_once() -> None:
    lost: list[bool] = []
    ours, theirs = socket.socketpair()
    with ours:
        ours.setblocking(False)
        theirs.close()
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
        outbox = Outbox(
            stream, stall_s=10, on_lost=lambda: lost.append(True), descriptor=ours.fileno()
        )
        outbox.put(b"x")
        assert outbox.lost
        assert lost == [True]
        await outbox.run()
        assert lost == [True]


@pytest.mark.parametrize("below", [1, CHUNK_BYTES])
async def test_room_does_not_wait_where_there_is_some(below: int) -> None:
    sending, _ = memory_stream_one_way_pair()
    await _outbox(sending).room(below)


FAREWELL = text_frame(b"too slow") + text_frame(b"goodbye")


async def stall(size: int) -> list[bytes]:
    """What a peer finds, which begins to read when its outbox has given up; frames of `size` bytes."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
        lost = trio.Event()
        outbox = Outbox(stream, stall_s=0.01, on_lost=lost.set, descriptor=ours.fileno())
        outbox.farewell = lambda: FAREWELL
        number = 0
        while outbox.unsent < 3 * CHUNK_BYTES:
            joined = b""
            while len(joined) < CHUNK_BYTES:
                joined += text_frame(f"{number} ".encode().ljust(size, b"x"))
                number += 1
            outbox.put(joined)
        received = bytearray()
        reading = trio.SocketStream(trio.socket.from_stdlib_socket(theirs))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(outbox.run)
            await lost.wait()
            assert outbox.stalled
            outbox.put(b"dropped")
            while not outbox.ended or len(received) < ours_sent(received, theirs):
                received += await reading.receive_some(1 << 20)
        assert outbox.phase == "parted"
        return messages_in(bytes(received))


def ours_sent(received: bytearray, theirs: socket.socket) -> int:
    """How much there is to be received."""
    try:
        return len(received) + len(theirs.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return len(received)


@pytest.mark.parametrize("size", [10, 125, 126, 300, 65_535, 65_536, 200_000])
async def test_a_stalled_peer_that_reads_after_all_finds_whole_frames_and_the_farewell(
    size: int,
) -> None:
    *frames, words, goodbye = await stall(size)
    assert (words, goodbye) == (b"too slow", b"goodbye")
    assert [int(frame.split()[0]) for frame in frames] == list(range(len(frames)))
    assert {len(frame) for frame in frames} == {size}


async def test_control_a_farewell_behind_half_a_frame_is_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Outbox, "_last_words", lambda *_: FAREWELL)
    with pytest.raises(AssertionError):
        assert (await stall(65_535))[-1] == b"goodbye"


async def test_a_peer_that_never_reads_is_not_waited_for() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
        lost = trio.Event()
        outbox = Outbox(stream, stall_s=0.01, on_lost=lost.set, descriptor=ours.fileno())
        outbox.farewell = lambda: FAREWELL
        outbox.put(text_frame(b"x" * (4 << 20)))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(outbox.run)
            await lost.wait()
            await wait_all_tasks_blocked()
            assert not outbox.ended
            nursery.cancel_scope.cancel()  # as the connection's end does, after its own deadline
        assert outbox.ended
        assert outbox.phase == "stalled"


def _lending(ours: socket.socket) -> Outbox:
    ours.setblocking(False)
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
    return Outbox(stream, stall_s=10, on_lost=_ignored, descriptor=ours.fileno(), send=ours.send)


@pytest.mark.parametrize("end", [Outbox.finish, Outbox.lose, Outbox.end, Outbox.take_back])
def test_a_loan_is_taken_back_once_before_writing_ends(
    end: Callable[[Outbox], None],
) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        outbox = _lending(ours)
        taken_back: list[bool] = []
        send = outbox.lend(lambda: taken_back.append(outbox.ended))
        assert send is not None
        assert send(b"at once") == 7
        assert theirs.recv(100) == b"at once"
        end(outbox)
        outbox.end()
        assert taken_back == [False]
        assert outbox.lend(_ignored) is None


async def write_beside_a_loan() -> bytes:
    """What arrives, of a borrower that writes `lent` while it may, and a pong put in between."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        outbox = _lending(ours)
        borrowed: list[Callable[[bytes], int]] = []
        send = outbox.lend(borrowed.clear)
        assert send is not None
        borrowed.append(send)
        filled = 0
        with suppress(BlockingIOError):
            while True:
                filled += send(b"." * 10_000)
        assert not outbox.put(b"[pong]")
        theirs.recv(1 << 16)
        for lent in borrowed:
            lent(b"lent")
        reading = trio.SocketStream(trio.socket.from_stdlib_socket(theirs.dup()))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(outbox.run)
            outbox.finish()
            arrived = b""
            while not arrived.endswith(b"[pong]"):
                arrived += await reading.receive_some(1 << 16)
        await reading.aclose()
        return arrived.lstrip(b".")


async def test_a_loan_never_overtakes_unsent_bytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert await write_beside_a_loan() == b"[pong]"
    # The negative control: a loan that is not taken back overtakes the pong.
    monkeypatch.setattr(Outbox, "take_back", _ignored_by)
    assert await write_beside_a_loan() == b"lent[pong]"


def _ignored_by(_: Outbox) -> None: ...


async def test_the_rest_of_a_short_lent_write_is_kept_in_order() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        outbox = _lending(ours)
        taken_back: list[bool] = []
        send = outbox.lend(lambda: taken_back.append(True))
        assert send is not None
        big = bytes(range(256)) * (1 << 14)
        outbox.keep(big, send(big))
        assert taken_back == [True]
        assert outbox.lend(_ignored) is None
        reading = trio.SocketStream(trio.socket.from_stdlib_socket(theirs.dup()))
        received = bytearray()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(outbox.run)
            while len(received) < len(big):
                received += await reading.receive_some(1 << 20)
            await outbox.room(1)
            assert outbox.lend(_ignored) is not None
            outbox.finish()
        await reading.aclose()
        assert bytes(received) == big


def test_every_phase_can_be_reached_and_can_end() -> None:
    assert set(OUTBOX_TRANSITIONS) == set(get_args(OutboxPhase))
    for phase, following in OUTBOX_TRANSITIONS.items():
        assert phase == "open" or any(phase in others for others in OUTBOX_TRANSITIONS.values())
        assert phase not in following
    ends = {phase for phase, following in OUTBOX_TRANSITIONS.items() if not following}
    assert ends == {"finished", "parted", "stalled", "failed"}


@given(st.lists(st.sampled_from(["put", "keep", "lend", "finish", "lose", "end", "take_back"])))
def test_whatever_is_called_in_whatever_order_the_peer_is_lost_at_most_once(
    calls: list[str],
) -> None:
    lost: list[str] = []
    outbox = Outbox(NeverTakes(), stall_s=10, on_lost=lambda: lost.append(outbox.phase))
    for call in calls:
        {
            "put": lambda: outbox.put(b"x"),
            "keep": lambda: outbox.keep(b"xy", 1),
            "lend": lambda: outbox.lend(_ignored),
        }.get(call, lambda name=call: getattr(outbox, name)())()
        assert lost == (["failing"] if outbox.lost else [])
        assert outbox.phase == "open" or not outbox.put(b"late") or not outbox.unsent
        assert not outbox.unsent or not outbox.lost
    outbox.end()
    assert outbox.ended
    assert outbox.phase == ("failed" if lost else "finished")


async def test_bytes_dropped_with_a_peer_are_counted() -> None:
    outbox = _outbox(NeverTakes())
    outbox.put(b"x" * 10)
    outbox.lose()
    assert (outbox.phase, outbox.unsent, outbox.dropped) == ("failing", 0, 10)
    await outbox.run()
    assert outbox.phase == "failed"
    finished = _outbox(NeverTakes())
    finished.finish()
    await finished.run()
    finished.lose()
    assert (finished.phase, finished.dropped, finished.lost) == ("finished", 0, False)
