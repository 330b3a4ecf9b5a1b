import pytest

from yoi_daemon.model.errors import CODES, ConfigFault, ConfigurationError, Refused
from yoi_daemon.model.problem import internal_problem, problem


@pytest.mark.parametrize("code", CODES)
def test_a_refusal_becomes_a_problem(code):
    body = problem(Refused(code, "do this", retry_after_s=2.5, queue_depth=3), "req_1")
    assert body == {
        "type": f"urn:yoi-daemon:error:{code}",
        "title": body["title"],
        "status": CODES[code].status,
        "detail": "do this",
        "code": code,
        "retryable": CODES[code].retryable,
        "request_id": "req_1",
        "retry_after_s": 2.5,
        "queue_depth": 3,
    }
    assert Refused(code, "").status == CODES[code].status


def test_a_refusals_fields_replace_nothing():
    refused = Refused("forbidden", "no", status=200, retry_after_s=None, request_id="x", title="y")
    body = problem(refused, "req_1")
    assert (body["status"], body["request_id"], body["title"]) == (403, "req_1", "Forbidden")


def test_a_fault_of_ours_tells_only_the_request():
    body = internal_problem("req_1")
    assert (body["status"], body["code"]) == (500, "internal")
    assert "req_1" in body["detail"]


def test_a_configuration_error_shows_every_fault_a_line_each():
    faults = [
        ConfigFault(file="a.toml", key="x.y", expected="is missing", line=3),
        ConfigFault(file="environment", key="YOI__X", expected="expected a number"),
        ConfigFault(file="b.py", key="", expected="cannot be read"),
    ]
    assert str(ConfigurationError(faults)).splitlines() == [
        "a.toml:3: x.y: is missing",
        "environment: YOI__X: expected a number",
        "b.py: cannot be read",
    ]
