import pytest

from yoi_daemon.model.frames import payload_of, text_frame


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65_535, 65_536, 100_000])
def test_a_frame_holds_its_payload(size):
    payload = b"x" * size
    frame = text_frame(payload)
    assert frame[0] == 0x81  # whole, text
    assert frame[1] < 0x80  # not masked
    assert len(frame) == size + (2 if size < 126 else 4 if size < 65_536 else 10)
    assert payload_of(frame) == payload
