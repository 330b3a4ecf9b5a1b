import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from yoi_daemon.model.cursor import (
    Cursor,
    CursorCodec,
    CursorRefused,
    MalformedCursorError,
    decode_cursor,
    resolve_cursor,
)

epochs = st.binary(min_size=8, max_size=8).map(bytes.hex)
seqs = st.integers(0, 2**64 - 1)


@given(epochs, seqs)
@example("0" * 16, 0)
@example("f" * 16, 2**64 - 1)
def test_a_cursor_comes_back_as_it_was(epoch, seq):
    text = CursorCodec(epoch).encode(seq)
    assert decode_cursor(text) == Cursor(epoch, seq)
    assert len(text) <= 40
    assert set(text) <= set(string.ascii_letters + string.digits + "-_")
    assert CursorCodec(epoch).encode(decode_cursor(text).seq) == text


@given(epochs, st.integers(0, 10**6))
def test_any_altered_character_is_refused(epoch, seq):
    text = CursorCodec(epoch).encode(seq)
    for place in range(len(text)):
        for other in "A_9z":
            if other != text[place]:
                with pytest.raises(MalformedCursorError):
                    decode_cursor(text[:place] + other + text[place + 1 :])


def test_every_other_last_character_is_refused():
    """Canonical: no two spellings of one cursor."""
    text = CursorCodec("0" * 16).encode(7)
    for other in set(string.printable) - {text[-1]}:
        with pytest.raises(MalformedCursorError):
            decode_cursor(text[:-1] + other)


@given(st.text(max_size=60) | st.text(string.ascii_letters + "-_", min_size=32, max_size=32))
def test_any_other_text_is_refused(text):
    with pytest.raises(MalformedCursorError):
        decode_cursor(text)


@pytest.mark.parametrize("change", ["{}=", "{} ", " {}", "{}\n", "{0}{0}", "{:.31}"])
def test_a_padded_or_cut_cursor_is_refused(change):
    with pytest.raises(MalformedCursorError):
        decode_cursor(change.format(CursorCodec("0" * 16).encode(7)))


@pytest.mark.parametrize("epoch", ["", "0" * 15, "0" * 17, "G" * 16, "A" * 16, "0" * 16 + "\n"])
def test_an_epoch_has_one_form(epoch):
    with pytest.raises(ValueError, match="16 lower-case"):
        CursorCodec(epoch)


NOW, EARLIER, FOREIGN = "00112233aabbccdd", "feedfeedfeedfeed", "0" * 16
windows = st.tuples(seqs, seqs).map(sorted)


def resolve(text: str, floor: int, head: int) -> int:
    return resolve_cursor(text, epoch=NOW, earlier_epochs={EARLIER}, floor=floor, head=head)


def refusal(text: str, floor: int, head: int) -> tuple[str, str]:
    with pytest.raises(CursorRefused) as caught:
        resolve(text, floor, head)
    return caught.value.code, caught.value.reason


@given(seqs, windows)
@example(3, [3, 3])
@example(2, [3, 9])
@example(10, [3, 9])
def test_a_cursor_of_this_log_resumes_exactly_within_the_window(seq, window):
    floor, head = window
    text = CursorCodec(NOW).encode(seq)
    if seq > head:
        assert refusal(text, floor, head) == ("cursor_unknown", "future")
    elif seq < floor:
        assert refusal(text, floor, head) == ("cursor_expired", "evicted")
    else:
        assert resolve(text, floor, head) == seq


@given(seqs, windows)
def test_a_number_of_another_log_means_nothing(seq, window):
    earlier, foreign = (CursorCodec(epoch).encode(seq) for epoch in (EARLIER, FOREIGN))
    assert refusal(earlier, *window) == ("cursor_expired", "epoch_changed")
    assert refusal(foreign, *window) == ("cursor_unknown", "foreign_epoch")


@given(
    st.text(max_size=60) | st.text(string.ascii_letters + "-_", min_size=32, max_size=32), windows
)
@example("latest", [0, 0])
@example("", [0, 2**64 - 1])
def test_any_other_text_is_malformed_whatever_the_window(text, window):
    assert refusal(text, *window) == ("cursor_unknown", "malformed")
