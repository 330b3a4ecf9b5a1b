"""Encodes and frames an event once, in the step that numbers it."""

from collections.abc import Callable

import msgspec

from yoi_daemon.model.cursor import CursorCodec
from yoi_daemon.model.errors import Refused
from yoi_daemon.model.events import MAX_EVENT_BYTES, Draft, format_second
from yoi_daemon.model.frames import text_frame

_encode = msgspec.json.Encoder().encode


class Framer:
    """Writes drafts as frames, each the JSON of one `ObservationEvent`.

    The log's fields are written before the draft's own: half the time of encoding the event as one
    object (timeit), for every event. `wall_clock` returns Unix seconds.
    """

    def __init__(self, cursors: CursorCodec, wall_clock: Callable[[], float]) -> None:
        self._cursors = cursors
        self._wall_clock = wall_clock
        self._second = 0
        self._second_text = b""

    def frame(self, seq: int, worker_seq: int | None, draft: Draft) -> bytes:
        """Returns the frame of event `seq`, with the current time.

        Raises `Refused`: `invalid_event` if the data is not JSON, `payload_too_large`.
        """
        try:
            own = _encode(draft)
            # The bound is on the data alone, which is measured only if it may be exceeded.
            size = len(own) if len(own) <= MAX_EVENT_BYTES else len(_encode(draft.data))
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise Refused("invalid_event", f"event {draft.kind!a} is not JSON: {error}") from error
        if size > MAX_EVENT_BYTES:
            raise Refused(
                "payload_too_large",
                f"the data of {draft.kind!a} is {size} bytes; the limit is {MAX_EVENT_BYTES}",
                bytes=size,
                max_bytes=MAX_EVENT_BYTES,
            )
        second, microsecond = divmod(round(self._wall_clock() * 1e6), 1_000_000)
        if second != self._second:
            self._second, self._second_text = second, format_second(second).encode()
        return text_frame(
            b'{"type":"event","cursor":"%b","seq":%d,"time":"%b.%06dZ",%b%b'
            % (
                self._cursors.encode_ascii(seq),
                seq,
                self._second_text,
                microsecond,
                b"" if worker_seq is None else b'"worker_seq":%d,' % worker_seq,
                own[1:],
            )
        )
