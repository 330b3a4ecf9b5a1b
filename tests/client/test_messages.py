import pytest

from yoi_daemon.client.messages import (
    Bookmark,
    End,
    Gap,
    Hello,
    ProtocolError,
    Snapshot,
    StreamFailure,
    Unknown,
    cursor_of,
    decode_message,
)
from yoi_daemon.model.events import ObservationEvent


def test_every_type_and_the_position_it_moves_to() -> None:
    frames = {
        '{"type":"hello","protocol":1,"epoch":"e","heartbeat_s":15,"resume":"live","later":1,'
        '"window":{"floor":"a","head":"b","events":2,"bytes":3}}': (Hello, None),
        '{"type":"event","cursor":"c1","seq":1,"time":"t","kind":"a.b","data":null,"later":1}': (
            ObservationEvent,
            "c1",
        ),
        '{"type":"bookmark","cursor":"c2","reason":"live","delivered":4}': (Bookmark, "c2"),
        '{"type":"snapshot","cursor":"c3","workers":[]}': (Snapshot, "c3"),
        '{"type":"gap","cursor":"c4","from":1,"to":2}': (Gap, "c4"),
        '{"type":"end","state":"stopped"}': (End, None),
        # An error names positions without moving to them.
        '{"type":"error","code":"slow_consumer","reason":"","cursor":"c5","retry":{"after_s":1}}': (
            StreamFailure,
            None,
        ),
        '{"type":"of_tomorrow","cursor":"c6"}': (Unknown, None),
    }
    for frame, (kind, cursor) in frames.items():
        message = decode_message(frame)
        assert type(message) is kind
        assert cursor_of(message) == cursor


@pytest.mark.parametrize(
    "frame", ["", "{", "[]", "{}", '{"type":1}', '{"type":"event"}', '{"type":"bookmark"}', b"\xff"]
)
def test_what_is_no_message(frame: str | bytes) -> None:
    with pytest.raises(ProtocolError):
        decode_message(frame)
