from hypothesis import given
from hypothesis import strategies as st

from yoi_daemon.model.workers import cut_text

texts = st.text("aé€𝄞\n\0", max_size=30)


@given(texts, st.integers(0, 80))
def test_a_text_is_cut_at_a_character_as_late_as_the_bytes_allow(text, max_bytes):
    cut, full_bytes = cut_text(text, max_bytes)
    assert text.startswith(cut)
    assert full_bytes == len(text.encode())
    assert len(cut.encode()) <= max_bytes
    if cut != text:
        assert len(text[: len(cut) + 1].encode()) > max_bytes


def test_a_character_that_does_not_fit_is_left_out_whole():
    assert cut_text("€", 2) == ("", 3)
    assert cut_text("a€", 3) == ("a", 4)
