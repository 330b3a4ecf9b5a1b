"""What a browser is told so that a page of a configured origin may ask. Nothing, unless one is configured."""

Headers = list[tuple[bytes, bytes]]

PREFLIGHT_AGE_S = 600
_ALLOWED: Headers = [
    (b"access-control-allow-methods", b"GET, POST, DELETE"),
    (b"access-control-allow-headers", b"authorization, content-type, idempotency-key"),
    (b"access-control-max-age", str(PREFLIGHT_AGE_S).encode()),
]


def is_preflight(method: str, headers: dict[str, str]) -> bool:
    """Returns whether a browser asks before it asks. It sends no token with it."""
    return method == "OPTIONS" and "access-control-request-method" in headers


def preflight_headers(origin: str) -> Headers:
    """Of the answer to a preflight; the answer to what is asked says its own."""
    return [*answer_headers(origin), *_ALLOWED]


def answer_headers(origin: str) -> Headers:
    """Of an answer that a page of `origin` may read. No cookies: a token is sent by hand or not at all."""
    return [
        (b"access-control-allow-origin", origin.encode("latin-1")),
        (b"access-control-expose-headers", b"retry-after, x-request-id"),
        (b"vary", b"origin"),
    ]
