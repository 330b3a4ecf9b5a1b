import math

import pytest

from yoi_daemon.client.endings import (
    Again,
    Backoff,
    Over,
    StreamRefused,
    ending_of_close,
    ending_of_rejection,
)
from yoi_daemon.client.messages import RetryAdvice, StreamFailure
from yoi_daemon.model.errors import Refused, Unreachable


@pytest.mark.parametrize("code", [None, 1000, 1001, 1006, 1011, 1012, 1013, 4000, 4008, 4099, 4500])
def test_what_is_tried_again(code: int | None) -> None:
    ending = ending_of_close(code, None, "c")
    assert isinstance(ending, Again)
    assert ending.code == code


@pytest.mark.parametrize(
    ("close_code", "told", "code"),
    [
        (4400, "bad_request", "invalid_request"),
        (4401, "unauthenticated", "unauthenticated"),
        (4404, "worker_gone", "worker_gone"),
        (4410, "cursor_expired", "cursor_expired"),
        (4422, "cursor_unknown", "cursor_unknown"),
        (4499, "of_tomorrow", "invalid_request"),
    ],
)
def test_what_is_refused(close_code: int, told: str, code: str) -> None:
    failure = StreamFailure(code=told, reason="why", floor=3, head=9)
    ending = ending_of_close(close_code, failure, "c")
    assert isinstance(ending, Over)
    error = ending.error
    assert isinstance(error, StreamRefused)
    assert (error.code, error.reason, error.cursor) == (code, "why", "c")
    assert (error.floor, error.head, error.fields["close_code"]) == (3, 9, close_code)
    assert "why" in error.detail


@pytest.mark.parametrize(
    ("close_code", "code"),
    [(4401, "unauthenticated"), (4410, "cursor_expired"), (4422, "cursor_unknown")],
)
def test_a_close_code_alone_says_enough(close_code: int, code: str) -> None:
    ending = ending_of_close(close_code, None, "c")
    assert isinstance(ending, Over)
    assert isinstance(ending.error, StreamRefused)
    assert ending.error.code == code


def test_a_message_too_big_is_not_asked_for_again() -> None:
    ending = ending_of_close(1009, None, "c")
    assert isinstance(ending, Over)


def test_the_daemons_wish_is_kept() -> None:
    failure = StreamFailure(code="shutting_down", retry=RetryAdvice(after_s=4))
    assert ending_of_close(1012, failure, "c") == Again("shutting_down", 1012, 4)


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_a_handshake_that_may_succeed_later(status: int) -> None:
    body = b'{"code": "draining", "detail": "d", "retry_after_s": 3}'
    ending = ending_of_rejection("ws://x", status, body)
    assert isinstance(ending, Again)
    assert ending.after_s == 3


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (401, b'{"code": "unauthenticated", "detail": "d"}', Refused),
        (404, b"<html>", Refused),
        (200, b"", Unreachable),
        (302, b"", Unreachable),
    ],
)
def test_a_handshake_that_will_not(status: int, body: bytes, kind: type[Exception]) -> None:
    ending = ending_of_rejection("ws://x", status, body)
    assert isinstance(ending, Over)
    assert isinstance(ending.error, kind)


def test_back_off_doubles_to_its_cap_and_leaves_half_to_chance() -> None:
    backoff = Backoff(first_s=1, cap_s=10)
    assert [backoff.wait_s(n, 0) for n in range(5)] == [0.5, 1, 2, 4, 5]
    assert [backoff.wait_s(n, 1) for n in range(5)] == [1, 2, 4, 8, 10]
    assert backoff.wait_s(10**9, 0.5) == 7.5


@pytest.mark.parametrize("wish", [0.0, -1.0, math.nan, math.inf])
def test_a_wish_cannot_make_a_tight_loop_nor_an_endless_wait(wish: float) -> None:
    assert Backoff(first_s=1).wait_s(0, 0, wish) == 0.5
