"""How a connection to the stream can end, and which endings are tried again. Pure: no I/O."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from yoi_daemon.client.messages import StreamFailure
from yoi_daemon.client.refusals import known_code, make_refused, refused_from_problem
from yoi_daemon.model.errors import Code, Refused, Unreachable

TOO_BIG = 1009
"""The close code, our own side's too, for a message beyond the limit."""

_ABNORMAL = 1006
_BY_CLOSE_CODE: Mapping[int, Code] = {4410: "cursor_expired", 4422: "cursor_unknown"}


class Backoff(msgspec.Struct, frozen=True, kw_only=True):
    """How long to wait before the next attempt: doubling, capped, and half of it left to chance.

    Both are seconds. The chance keeps a thousand subscribers of one daemon from coming back as one.
    """

    first_s: float = 0.25
    cap_s: float = 15.0

    def wait_s(self, failures: int, chance: float, wish_s: float | None = None) -> float:
        """Returns the wait after `failures` attempts in a row that got nowhere; `chance` is in [0, 1).

        `wish_s` is the daemon's `retry.after_s`, honoured where it is longer: the daemon spreads
        its subscribers itself, and a wish of nothing at all must not become a tight loop.
        """
        full = min(self.cap_s, self.first_s * 2.0 ** min(failures, 32))
        wait_s = full * (0.5 + chance / 2)
        return max(wait_s, wish_s) if wish_s is not None and math.isfinite(wish_s) else wait_s


class StreamRefused(Refused):
    """The daemon ended the subscription and the same one would be refused again (4400 to 4499).

    `reason` tells the cases of a code apart (`evicted`, `epoch_changed`, …). `floor` and `head` are
    the log's window where the daemon told it; `cursor` is the last position this subscriber had.
    """

    def __init__(
        self, code: Code, detail: str, *, reason: str = "", cursor: str | None = None
    ) -> None:
        super().__init__(code, detail)
        self.reason = reason
        self.cursor = cursor
        self.floor: Any = None
        self.head: Any = None


class Again(NamedTuple):
    """The connection was cut; `after_s` is the daemon's wish for the next one, in seconds."""

    reason: str
    code: int | None = None
    after_s: float | None = None


class Over(NamedTuple):
    """The subscription is over: finished when there is no error."""

    error: Exception | None = None


Ending = Again | Over


def ending_of_close(close_code: int | None, failure: StreamFailure | None, cursor: str) -> Ending:
    """Returns what a closed connection means; `failure` is the `error` message before it, if one came.

    The close code decides. None and 1006 are a connection that ended without one.
    """
    if close_code == TOO_BIG:
        # Resuming would meet the same message again.
        detail = "a message is longer than this client takes; narrow the scope or the kinds"
        return Over(StreamRefused("payload_too_large", detail, cursor=cursor))
    if close_code is not None and 4400 <= close_code <= 4499:
        return Over(_refusal(close_code, failure, cursor))
    if failure is not None:
        after_s = None if failure.retry is None else failure.retry.after_s
        return Again(f"{failure.code} {failure.reason}".strip(), close_code, after_s)
    lost = close_code is None or close_code == _ABNORMAL
    return Again("the connection was lost" if lost else f"closed with {close_code}", close_code)


def ending_of_rejection(url: str, status: int, body: bytes) -> Ending:
    """Returns what an HTTP answer instead of the 101 means. Redirects are not followed."""
    refused = refused_from_problem(status, body)
    sentence = f"the stream's handshake was answered with HTTP {status}"
    if status >= 500 or status in {408, 429}:
        return Again(sentence, None, None if refused is None else refused.retry_after_s)
    if refused is not None:
        return Over(refused)
    if 400 <= status < 500:
        return Over(make_refused("", sentence, status=status))
    return Over(Unreachable(f"{url} is no event stream: {sentence}"))


def _refusal(close_code: int, failure: StreamFailure | None, cursor: str) -> StreamRefused:
    if failure is None:
        failure = StreamFailure(code=_BY_CLOSE_CODE.get(close_code, ""))
    # The last digits of such a close code are those of the HTTP status that means the same.
    code, extra = known_code(failure.code, close_code - 4000)
    why = failure.reason and f" ({failure.reason})"
    detail = failure.detail or f"the daemon refuses this subscription: {failure.code or code}{why}"
    refused = StreamRefused(code, detail, reason=failure.reason, cursor=cursor)
    refused.floor, refused.head = failure.floor, failure.head
    refused.retry_after_s = None if failure.retry is None else failure.retry.after_s
    refused.fields.update(extra, close_code=close_code)
    return refused
