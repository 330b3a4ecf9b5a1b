"""What schemathesis cannot know: a batch's lines, a webhook's signature, which service to leave alone."""

import hashlib
import hmac
import json
import os
from typing import Any

import schemathesis
from hypothesis import strategies as st

HOOK_SECRET = os.environb[b"HOOK_SECRET"]
NDJSON = "application/x-ndjson"

_json: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=5,
)
_events = st.fixed_dictionaries(
    {"ingress": st.sampled_from(["ok", "typed", "fail", "nope"]), "payload": _json},
    optional={"key": st.sampled_from(["a", "b"]) | st.text(max_size=3)},
)
_lines = (_events | _events | _json).map(json.dumps).map(str.encode)
_junk = st.binary(max_size=20).map(lambda line: line.replace(b"\n", b""))

schemathesis.openapi.media_type(
    NDJSON, st.lists(_lines | _lines | _junk, max_size=6).map(b"\n".join)
)
schemathesis.openapi.media_type("application/octet-stream", _lines | _lines | st.binary())


@schemathesis.deserializer(NDJSON)
def decode_lines(_: Any, response: Any) -> list[Any]:
    """As OpenAPI 3.2 has it: the lines are an array's items."""
    return [json.loads(line) for line in response.content.splitlines()]


@schemathesis.hook
def before_call(_: Any, case: Any, __: Any) -> None:
    """Two of three webhooks are signed as they should be; and `stock` is never stopped, but `spare`."""
    plugin = case.path_parameters
    if case.operation.path.endswith("/stop") and plugin.get("plugin_id") == "stock":
        plugin["plugin_id"] = "spare"
    if case.operation.path.startswith("/hooks/") and isinstance(case.body, bytes):
        digest = hmac.new(HOOK_SECRET, case.body, hashlib.sha256).hexdigest()
        if int(digest, 16) % 3:
            case.headers["X-Hub-Signature-256"] = f"sha256={digest}"
