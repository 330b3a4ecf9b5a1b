from typing import get_args

import msgspec
import pytest

from yoi_daemon.client.refusals import make_refused, refused_from_problem
from yoi_daemon.model.errors import CODES, Code, Refused
from yoi_daemon.model.problem import problem


@pytest.mark.parametrize("code", get_args(Code))
def test_what_the_daemon_raised_is_what_the_client_raises(code: Code) -> None:
    raised = Refused(code, "A sentence.", retry_after_s=2.5, queue_depth=3)
    status = CODES[code].status
    received = refused_from_problem(status, msgspec.json.encode(problem(raised, "req_1")))
    assert received is not None
    assert (received.code, received.detail, received.retry_after_s) == (code, "A sentence.", 2.5)
    assert received.fields == {"queue_depth": 3, "request_id": "req_1"}


@pytest.mark.parametrize(
    ("status", "known"),
    [
        (401, "unauthenticated"),
        (418, "invalid_request"),
        (503, "service_unavailable"),
        (599, "internal"),
    ],
)
def test_a_code_of_a_later_version_becomes_the_nearest(status: int, known: Code) -> None:
    body = b'{"code": "of_tomorrow", "detail": "d", "retry_after_s": null}'
    received = refused_from_problem(status, body)
    assert received is not None
    assert received.code == known
    assert received.fields == {"unknown_code": "of_tomorrow"}


def test_fields_cannot_break_the_error() -> None:
    refused = make_refused("internal", "d", status=500, fields={"detail": 1, "self": 2, "code": 3})
    assert refused.detail == "d"
    assert refused.fields == {"detail": 1, "self": 2, "code": 3}


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"{}", b'{"code": 7}', b"\xff"])
def test_what_no_daemon_wrote_is_no_refusal(body: bytes) -> None:
    assert refused_from_problem(500, body) is None
