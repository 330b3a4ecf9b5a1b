import pytest
from hypothesis import given
from hypothesis import strategies as st

from yoi_daemon.front.fragments import FragmentCounter, TooManyFragments


def _frame(first: int, payload: int, *, masked: bool = True) -> bytes:
    mask = 0x80 if masked else 0
    if payload < 126:
        size = bytes([mask | payload])
    elif payload < 1 << 16:
        size = bytes([mask | 126]) + payload.to_bytes(2)
    else:
        size = bytes([mask | 127]) + payload.to_bytes(8)
    # 0x01 looks like the head of an unfinished text frame, should the payload be taken for one.
    return bytes([first]) + size + (b"mask" if masked else b"") + b"\x01" * payload


UNFINISHED, MORE, LAST, PING = 0x01, 0x00, 0x80, 0x89


@given(
    st.lists(
        st.tuples(st.sampled_from([LAST, PING]), st.sampled_from([0, 1, 125, 126, 300, 65536]))
    ),
    st.integers(1, 50),
)
def test_whole_frames_never_add_up(frames: list[tuple[int, int]], step: int) -> None:
    counter = FragmentCounter(most=1)
    data = b"".join(_frame(first, size) for first, size in frames)
    if len(data) > 5000:
        step *= 1000
    for start in range(0, len(data), step):
        counter.feed(data[start : start + step])


@pytest.mark.parametrize("step", [1, 2, 3, 7, 10000])
def test_one_fragment_too_many_is_noticed(step: int) -> None:
    data = _frame(UNFINISHED, 3) + (_frame(MORE, 0) + _frame(PING, 2)) * 9
    counter = FragmentCounter(most=10)
    for start in range(0, len(data), step):
        counter.feed(data[start : start + step])
    with pytest.raises(TooManyFragments):
        counter.feed(_frame(MORE, 0))


def test_the_end_of_a_message_counts_anew() -> None:
    counter = FragmentCounter(most=3)
    for _ in range(10):
        counter.feed(_frame(UNFINISHED, 200) + _frame(MORE, 0) * 2 + _frame(LAST, 70000))
