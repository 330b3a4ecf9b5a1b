"""The body of every error response, `application/problem+json` (RFC 9457)."""

from typing import Any

from yoi_daemon.model.errors import CODES, Code, Refused

CONTENT_TYPE = "application/problem+json"


def problem(refused: Refused, request_id: str) -> dict[str, Any]:
    """Returns the body for a refusal.

    The keys are `type, title, status, detail, code, retryable, request_id`, with `retry_after_s`
    (seconds) where it is known, beside the refusal's own fields, which cannot replace any of them.
    """
    body = _body(refused.code, refused.detail, request_id)
    if refused.retry_after_s is not None:
        body["retry_after_s"] = refused.retry_after_s
    return {
        **body,
        **{name: value for name, value in refused.fields.items() if name not in body},
    }


def internal_problem(request_id: str) -> dict[str, Any]:
    """Returns the body for an internal error: only the id by which to find it in the log."""
    detail = f"the daemon failed to answer; its log has the reason under request_id {request_id}"
    return _body("internal", detail, request_id)


def _body(code: Code, detail: str, request_id: str) -> dict[str, Any]:
    info = CODES[code]
    return {
        "type": f"urn:yoi-daemon:error:{code}",
        "title": code.replace("_", " ").capitalize(),
        "status": info.status,
        "detail": detail,
        "code": code,
        "retryable": info.retryable,
        "request_id": request_id,
    }
