"""The running daemon is what its OpenAPI page says, against everything schemathesis thinks of."""

import importlib.util
import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.e2e.conftest import start_daemon as start_daemon
from yoi_daemon.api.app import ROUTES
from yoi_daemon.api.routing import Route
from yoi_daemon.model.errors import CODES

pytestmark = [
    pytest.mark.prove,
    pytest.mark.skipif(
        importlib.util.find_spec("schemathesis") is None, reason="needs schemathesis"
    ),
]

CASES, SAMPLED_CASES = 5_000, 600
HOOK_SECRET = "s3cret"
REPO = Path(__file__).parents[2]

STOCK = """
from typing import Any
import trio
import msgspec
from yoi_daemon.sdk import Config, Context, IngressEvent, Plugin, Secret

class Settings(Config):
    secret: Secret

class Sum(msgspec.Struct):
    a: int
    b: int = 0

plugin = Plugin("NAME", config=Settings)

@plugin.ingress("ok", verify="github")
async def ok(ctx: Context[Settings], event: IngressEvent) -> None: ...

@plugin.ingress("typed")
async def typed(ctx: Context[Settings], event: IngressEvent[Sum]) -> None: ...

@plugin.ingress("fail")
async def fail(ctx: Context[Settings], event: IngressEvent) -> None:
    raise ValueError("no good")

@plugin.ingress("hold")
async def hold(ctx: Context[Settings], event: IngressEvent) -> None:
    await trio.sleep(0.2)

@plugin.status
async def status(ctx: Context[Settings]) -> dict[str, int]:
    return {"fine": 1}

@plugin.tool("add")
async def add(ctx: Context[Settings], args: Sum) -> int:
    return args.a + args.b

@plugin.tool("break")
async def break_(ctx: Context[Settings], args: Any) -> None:
    raise ValueError("no good")

@plugin.tool("hang")
async def hang(ctx: Context[Settings], args: Any) -> None:
    await trio.sleep_forever()
"""
TOOLS_ONLY = """
from typing import Any
from yoi_daemon.sdk import Context, Plugin
plugin = Plugin("tools_only")

@plugin.tool("echo")
async def echo(ctx: Context, args: Any) -> Any:
    return args
"""
PLUGINS = {
    "stock": STOCK.replace("NAME", "stock"),
    "spare": STOCK.replace("NAME", "spare"),
    "tools_only": TOOLS_ONLY,
    "broken": "1 / 0\n",
}
CONFIG = """
[api]
commands_per_s = 10_000
auth_failures_per_s = 10_000
all_auth_failures_per_s = 10_000
[runtime]
max_workers = 300
[profiles.named]
engine = "echo"
[plugins.stock]
attempts = 1
queue_events = 4
tool_timeout_s = 0.1
redeliver_per_s = 5
config = {{secret = "hook_secret"}}
[plugins.spare]
tool_timeout_s = 0.1
config = {{secret = "hook_secret"}}
[runtimes.recorded]
kind = "local_compat"
directory = {recorded}
[runtimes.gone]
kind = "local_compat"
directory = {gone}
"""
PROGRAM = """
import trio
from yoi_daemon.runtime import profiles

class Moody(profiles.EchoEngine):
    async def run(self, turn):
        await super().run(turn)
        if len(turn.input) % 2:  # and keeps the worker busy
            await trio.sleep_forever()

profiles.EchoEngine = Moody
from yoi_daemon.cli.main import main
main()
"""
OPEN_ENDED = ("ProblemBody", "BatchAnswer")
"""Codes add members of their own to these."""
MUST_GIVE = {
    ("create_worker", 501),
    ("send_input", 501),
    ("cancel_turn", 501),
    ("stop_worker", 501),
    ("show_worker", 502),
    ("show_worker", 503),
    ("list_workers", 503),
    ("show_transcript", 503),
    ("post_ingress", 503),
    ("call_tool", 502),
    ("call_tool", 503),
    ("call_tool", 504),
}
"""5xx that the daemon under test must have given, each documented for its operation."""
WORKERS, DEAD_LETTERS, TOKENS = 150, 60, 60


@pytest.fixture
def daemon(start_daemon, tmp_path):
    """One with something of everything: services, tools, dead letters, workers, other runtimes."""
    config, state, recorded = (tmp_path / name for name in ("config", "state", "recorded"))
    for directory in (config / "plugins", state / "secrets", recorded):
        directory.mkdir(parents=True, mode=0o700)
    (state / "secrets" / "hook_secret").write_text(HOOK_SECRET)
    for name, code in PLUGINS.items():
        (config / "plugins" / f"{name}.py").write_text(code)
    places = {"recorded": json.dumps(str(recorded)), "gone": json.dumps(str(tmp_path / "gone"))}
    (config / "yoi-daemon.toml").write_text(CONFIG.format_map(places))
    item = {"item_id": "i1", "role": "user", "text": "é" * 100, "time": "2026-01-01T00:00:00Z"}
    record = {"state": "idle", "created_at": "2026-01-01T00:00:00Z", "items": [item]}
    for name in ("old1", "old2", "old3"):
        (recorded / f"{name}.json").write_text(json.dumps(record))
    (recorded / "bad.json").write_text("{")
    return start_daemon(config, state, code=PROGRAM)


def make_stock(daemon) -> dict[str, list[str]]:
    """Fills the daemon; gives the real values of parameters."""
    workers = []
    for number in range(WORKERS):
        body = {"label": f"{number}", "input": "x" * (number % 3)} if number % 3 else {}
        path = "/api/runtimes/backend-internal/workers"
        _, made = daemon.request("POST", path, body)
        workers.append(made["worker"]["worker_id"])
    letters: list[str] = []
    deadline = time.monotonic() + 30
    while len(letters) < DEAD_LETTERS:
        assert time.monotonic() < deadline
        daemon.request("POST", "/api/plugins/stock/ingress/fail", {})
        _, page = daemon.request("GET", "/api/plugins/stock/dead-letters?limit=256")
        letters = [letter["event_id"] for letter in page["items"]]
    tokens: list[str] = []
    for _ in range(TOKENS):
        _, made = daemon.request("POST", "/api/tokens", {"scopes": ["events:read"]})
        tokens.append(made["token"]["token_id"])
    return {
        "path.token_id": tokens,
        "path.plugin_id": ["stock", "spare", "tools_only", "broken"],
        "path.ingress": ["ok", "typed", "fail", "hold"],
        "path.tool": ["add", "break", "hang", "echo"],
        "path.event_id": letters,
        "path.runtime_id": ["backend-internal"] * 4 + ["recorded", "recorded", "gone"],
        "path.worker_id": [*workers, *["old1", "old2", "old3", "bad", "bad"] * 10],
        "body.profile": ["builtin:echo", "named"],
    }


def expectations(route: Route) -> dict[str, list[int | str]]:
    """What schemathesis' checks are to expect of an operation: what the page tells of it, and nothing wider."""
    conflict = ("delivery_id_conflict",) if route.is_keyed or route.takes_key else ()
    by_state = {CODES[code].status for code in (*route.refuses, *conflict)}
    answers = {route.status, route.other_status or route.status}
    told = {CODES[code].status for code in route.codes()}
    faults = {status for status in by_state | answers if status >= 500}
    return {
        # A well-formed request: an answer, or what the state of things may say.
        "positive_data_acceptance": [*sorted(answers | by_state)],
        "negative_data_rejection": [*sorted({one for one in told if one < 500} | faults)],
        "not_a_server_error": ["2xx", "4xx", *sorted(faults)],
    }


def settings(stock: dict[str, list[str]]) -> str:
    lines = ['hooks = "tests.proofs.schemathesis_hooks"']
    lines += ['rate-limit = "100000/s"']  # else it does as Retry-After says, and waits
    for name, values in stock.items():
        lines += [f'[dictionaries."{name}"]', f"values = {json.dumps(values)}"]
    lines += ["[parameters]"]
    lines += [f'"{name}" = {{dictionary = "{name}", probability = 0.8}}' for name in stock]
    for route in ROUTES:
        lines += ["[[operations]]", f'include-operation-id = "{route.handler.__name__}"']
        for check, statuses in expectations(route).items():
            lines.append(f"checks.{check}.expected-statuses = {json.dumps(statuses)}")
    return "\n".join(lines)


def answered(har: Path) -> Counter[tuple[str, int]]:
    """How often each operation was answered with each status."""
    patterns = [(route, re.compile(re.sub("<[^>]+>", "[^/]+", route.rule))) for route in ROUTES]
    seen: Counter[tuple[str, int]] = Counter()
    for entry in json.loads(har.read_text())["log"]["entries"]:
        path = urlsplit(entry["request"]["url"]).path
        for route, pattern in patterns:
            if route.method == entry["request"]["method"] and pattern.fullmatch(path):
                seen[route.handler.__name__, entry["response"]["status"]] += 1
                break
    return seen


def run_schemathesis(daemon, place: Path, config: str, *options: str):
    """The command, in `place`, with all checks against the daemon's own page; its record is `sent.har` there."""
    authorization = f"Bearer {daemon.token}"
    asked = urllib.request.Request(
        f"{daemon.api}/openapi.json", headers={"Authorization": authorization}
    )
    with urllib.request.urlopen(asked, timeout=10) as answer:
        page = json.load(answer)
    # The types are an allow-list: an answer has no member that its type does not have.
    for name, schema in page["components"]["schemas"].items():
        if "properties" in schema and name not in OPEN_ENDED:
            schema["additionalProperties"] = False
    (place / "openapi.json").write_text(json.dumps(page))
    (place / "schemathesis.toml").write_text(config)
    program = "import sys; from schemathesis.cli import schemathesis; sys.exit(schemathesis())"
    command = [sys.executable, "-c", program, "run", "openapi.json", "--url", daemon.api]
    command += ["-H", f"Authorization: {authorization}", "--checks", "all", "--seed", "1"]
    path = os.pathsep.join([str(REPO), *sys.path])
    return subprocess.run(
        [*command, "--report-har-path", "sent.har", "--no-color", *options],
        cwd=place,
        env=os.environ | {"HOOK_SECRET": HOOK_SECRET, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=3600,
        check=False,
    )


def test_all_checks_hold(daemon, tmp_path, full):
    options = ("--phases", "coverage,fuzzing,stateful", "--max-examples", "250" if full else "10")
    done = run_schemathesis(daemon, tmp_path, settings(make_stock(daemon)), *options)
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr
    seen = answered(tmp_path / "sent.har")
    print(f"{sum(seen.values())} cases", dict(sorted(seen.items())))
    assert sum(seen.values()) >= (CASES if full else SAMPLED_CASES)
    if full:
        good = {(route.handler.__name__, route.status) for route in ROUTES}
        assert (good | MUST_GIVE) - set(seen) == set()
    assert daemon.request("GET", "/readyz") == (200, {"ready": True, "codes": []})
    assert daemon.stop() == 0
    faults = [line for line in daemon.lines if "Traceback" in line and "plugin error" not in line]
    assert [json.loads(line)["event"] for line in faults] == []


DRIFTING = """
from yoi_daemon.api import status
from yoi_daemon.api.routing import Answer, Route
from yoi_daemon.api.shapes import Alive
from yoi_daemon.model.errors import Refused

async def undocumented_status(call):
    "One."
    raise Refused("storage_low", "not in the table")

async def undocumented_code(call):
    "One."
    raise Refused("worker_not_found", "another 404 is in the table")

async def other_shape(call):
    "One."
    return Answer({"ok": "yes"})

async def further_member(call):
    "One."
    return Answer({"ok": True, "more": 1})

async def fault(call):
    "One."
    raise KeyError

status.ROUTES += tuple(
    Route("GET", f"/drift/{one.__name__}", "status:read", one, gives=Alive, refuses=("event_not_found",))
    for one in (undocumented_status, undocumented_code, other_shape, further_member, fault)
)
from yoi_daemon.cli.main import main
main()
"""


def test_the_control_each_way_to_drift_is_caught(start_daemon, tmp_path):
    (tmp_path / "config").mkdir()
    daemon = start_daemon(tmp_path / "config", code=DRIFTING)
    options = ("--include-path-regex", "^/drift/", "--phases", "fuzzing", "--max-examples", "1")
    done = run_schemathesis(daemon, tmp_path, "", *options)
    assert done.returncode == 1, done.stdout
    for name, failure in (
        ("undocumented_status", "Undocumented status code"),
        ("undocumented_code", "Response violates schema"),
        ("other_shape", "Response violates schema"),
        ("further_member", "Response violates schema"),
        ("fault", "Server error"),
    ):
        (told,) = re.findall(rf"_ GET /drift/{name} _(.*?)(?=\n_{{5}}|\n=)", done.stdout, re.DOTALL)
        assert failure in told, done.stdout
