from yoi_daemon.model.errors import Refused
from yoi_daemon.model.problem import internal_problem, problem


def test_a_problem_holds_the_whole_refusal() -> None:
    refused = Refused("queue_full", "wait", retry_after_s=1.5, queue_depth=3)
    assert problem(refused, "req_1") == {
        "type": "urn:yoi-daemon:error:queue_full",
        "title": "Queue full",
        "status": 429,
        "detail": "wait",
        "code": "queue_full",
        "retryable": True,
        "retry_after_s": 1.5,
        "request_id": "req_1",
        "queue_depth": 3,
    }


def test_a_field_replaces_nothing() -> None:
    body = problem(Refused("forbidden", "no", status=200, request_id="x"), "req_1")
    assert (body["status"], body["request_id"]) == (403, "req_1")
    assert "retry_after_s" not in body


def test_an_internal_problem_holds_only_the_request_id() -> None:
    body = internal_problem("req_1")
    assert (body["status"], body["code"], body["retryable"]) == (500, "internal", False)
    assert "req_1" in body["detail"]
