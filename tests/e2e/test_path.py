"""The whole path, across real processes: a signed webhook in, every step of it out on the stream."""

import hashlib
import hmac
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosedError, InvalidStatus
from websockets.sync.client import connect

REPO = Path(__file__).parents[2]
DATA = REPO / "tests" / "data"
SECRET = "a shared secret"
BODY = (DATA / "github_push.json").read_bytes()


def signature(body: bytes, secret: str = SECRET) -> str:
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


@pytest.fixture
def daemon(start_daemon, tmp_path):
    config, state = tmp_path / "config", tmp_path / "state"
    shutil.copytree(REPO / "config", config)
    (state / "secrets").mkdir(parents=True, mode=0o700)
    (state / "secrets" / "github_secret").write_text(SECRET + "\n")
    return start_daemon(config, state)


def subscribe(daemon, **query: str):
    asked = "&".join(f"{name}={value}" for name, value in query.items())
    return connect(
        f"{daemon.observe}/v1/events?{asked}",
        additional_headers={"Authorization": f"Bearer {daemon.token}"},
    )


def push(daemon, body: bytes = BODY, **headers: str):
    signed = {"X-Hub-Signature-256": signature(body), "X-GitHub-Event": "push"} | headers
    return daemon.request("POST", "/hooks/github_watch/push", body, headers=signed, token=False)


def read_until(stream, kind: str) -> list[dict]:
    """Events up to the first of `kind`."""
    events = []
    while not events or events[-1]["kind"] != kind:
        message = json.loads(stream.recv(timeout=10))
        if message["type"] == "event":
            events.append(message)
    return events


def read_to_the_close(stream) -> list[dict]:
    """Every message that is left, of a stream that the daemon closes."""
    messages = []
    try:
        while True:
            messages.append(json.loads(stream.recv(timeout=10)))
    except ConnectionClosedError:
        return messages


def test_a_push_is_seen_step_by_step_and_resumed_exactly(daemon):
    with subscribe(daemon, cursor="latest") as stream:
        hello = json.loads(stream.recv(timeout=10))
        assert hello["type"] == "hello"
        assert hello["resume"] == "live"
        status, receipt = push(daemon)
        assert status == 202
        assert set(receipt) == {"event_id", "correlation_id", "queue_depth", "cursor"}
        first = read_until(stream, "worker.created")
    # Cut off in the middle of the path; the rest comes with the last cursor, and nothing else.
    with subscribe(daemon, cursor=first[-1]["cursor"]) as stream:
        assert json.loads(stream.recv(timeout=10))["resume"] == "exact"
        rest = []
        while not {"plugin.ingress.handled", "worker.turn.finished"} <= {e["kind"] for e in rest}:
            message = json.loads(stream.recv(timeout=10))
            rest += [message] if message["type"] == "event" else []
    events = [event for event in first + rest if event["kind"] != "heartbeat.beat"]
    kinds = [event["kind"] for event in events]
    steps = [
        "plugin.ingress.accepted",
        "github_watch.pushed",
        "worker.created",
        "worker.input_accepted",
        "worker.turn.started",
        "worker.turn.finished",
    ]
    assert [kind for kind in kinds if kind in steps] == steps
    assert kinds.index("worker.input_accepted") < kinds.index("plugin.ingress.handled")
    numbers = [event["seq"] for event in first + rest]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    path = [event for event in events if event["kind"] in (*steps, "plugin.ingress.handled")]
    assert {event["correlation_id"] for event in path} == {receipt["correlation_id"]}
    assert path[0]["cursor"] == receipt["cursor"]

    worker_id = next(event["worker_id"] for event in events if event["kind"] == "worker.created")
    address = f"/api/runtimes/backend-internal/workers/{worker_id}"
    status, page = daemon.request("GET", f"{address}/transcript")
    assert status == 200
    assert [item["role"] for item in page["items"]] == ["user", "assistant"]
    assert page["items"][0]["text"] == page["items"][1]["text"]
    assert "refs/tags/simple-tag" in page["items"][0]["text"]
    assert daemon.stop() == 0
    assert not [line for line in daemon.lines if "Traceback" in line]


def test_a_wrong_signature_reaches_no_plugin(daemon):
    status, problem = push(daemon, **{"X-Hub-Signature-256": signature(BODY, "another secret")})
    assert (status, problem["code"]) == (401, "unauthenticated")
    status, problem = daemon.request("POST", "/hooks/github_watch/push", BODY, token=False)
    assert (status, problem["code"]) == (401, "unauthenticated")
    _, record = daemon.request("GET", "/api/plugins/github_watch")
    assert record["counters"] == {}
    # The control: the same body with the right signature does reach it.
    assert push(daemon)[0] == 202


def test_the_same_delivery_is_one_event(daemon):
    delivery = {"X-GitHub-Delivery": "72d3162e-cc78-11e3-81ab-4c9367dc0958"}
    _, first = push(daemon, **delivery)
    assert push(daemon, **delivery) == (202, first)
    other = json.dumps({**json.loads(BODY), "ref": "refs/heads/other"}).encode()
    signed = {"X-Hub-Signature-256": signature(other)} | delivery
    status, problem = push(daemon, other, **signed)
    assert (status, problem["code"]) == (409, "delivery_id_conflict")


def test_nobody_comes_in_without_the_token(daemon):
    for path in ("/api/status", "/api/plugins", "/api/workers", "/api/runtimes"):
        status, problem = daemon.request("GET", path, token=False)
        assert (status, problem["code"]) == (401, "unauthenticated")
        assert daemon.request("GET", path)[0] == 200
    assert daemon.request("GET", "/readyz", token=False) == (200, {"ready": True, "codes": []})
    with pytest.raises(InvalidStatus) as refused, connect(f"{daemon.observe}/v1/events"):
        pass
    assert refused.value.response.status_code == 401
    assert (daemon.state / "admin.token").stat().st_mode & 0o777 == 0o600


SLOW = """
import trio
from yoi_daemon.sdk import Context, IngressEvent, Plugin
plugin = Plugin("slow")

@plugin.ingress("sleep")
async def sleep(ctx: Context, event: IngressEvent) -> None:
    await ctx.emit("sleeping")
    await trio.sleep_forever()
"""

STUBBORN = """
import trio
from yoi_daemon.sdk import Context, IngressEvent, Plugin
plugin = Plugin("stubborn")

@plugin.ingress("stay")
async def stay(ctx: Context, event: IngressEvent) -> None:
    await ctx.emit("staying")
    while True:
        try:
            await trio.sleep(60)
        except BaseException:
            pass
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    ("name", "ingress", "code"), [("slow", "sleep", SLOW), ("stubborn", "stay", STUBBORN)]
)
def test_it_stops_while_a_handler_runs(start_daemon, config, number, name, ingress, code):
    (config / "plugins" / f"{name}.py").write_text(code)
    daemon = start_daemon(config, YOI__DAEMON__STOP_TIMEOUT_S="2")
    with subscribe(daemon, kinds=f"{name}.") as stream:
        assert json.loads(stream.recv(timeout=10))["type"] == "hello"
        for _ in range(3):
            assert daemon.request("POST", f"/api/plugins/{name}/ingress/{ingress}", {})[0] == 202
        read_until(stream, "slow.sleeping" if name == "slow" else "stubborn.staying")
        begun = time.monotonic()
        daemon.signal(number)
        messages = read_to_the_close(stream)
        assert stream.close_code == 1012
        assert [m["type"] for m in messages[-2:]] == ["bookmark", "error"]
        assert messages[-1]["retry"]["after_s"] > 0
    assert daemon.wait() == 0
    assert time.monotonic() - begun < 4
    assert not [line for line in daemon.lines if "Traceback" in line]
    # Not handled, and said so: one in hand, two queued.
    assert any('"events not handled"' in line and '"count": 3' in line for line in daemon.lines)
    assert not (daemon.state / "daemon.json").exists()


def test_a_second_interrupt_stops_at_once(start_daemon, config):
    (config / "plugins" / "slow.py").write_text(SLOW)
    daemon = start_daemon(config, YOI__DAEMON__STOP_TIMEOUT_S="600")
    with subscribe(daemon, kinds="slow.") as stream:
        daemon.request("POST", "/api/plugins/slow/ingress/sleep", {})
        stream.recv(timeout=10)
        read_until(stream, "slow.sleeping")
        daemon.signal(signal.SIGINT)
        while json.loads(stream.recv(timeout=10))["type"] != "error":
            pass
    daemon.signal(signal.SIGINT)
    assert daemon.wait() == 130


EXIT_IN_A_WRITE = """
import sys
from pathlib import Path
from yoi_daemon.daemon.signals import exit_now
from yoi_daemon.model.directories import Directories

class Busy:
    def flush(self):
        raise RuntimeError("reentrant call")

sys.stderr = Busy()
exit_now(130, Directories(Path(sys.argv[1]), Path(sys.argv[1]), Path(sys.argv[1])))
"""


def test_an_interrupt_in_the_middle_of_a_write_stops_at_once_too(tmp_path):
    done = subprocess.run([sys.executable, "-c", EXIT_IN_A_WRITE, tmp_path], check=False)
    assert done.returncode == 130


# Each says by a FIFO that it is there, then stays.
HELD = {
    "a thread in start": """
@plugin.start
def start(ctx: Context) -> None:
    stay()
""",
    "a thread in a stop hook": """
@plugin.stop
def stop(ctx: Context) -> None:
    stay()
""",
    "a thread in a handler": """
@plugin.every(seconds=0.1)
def tick(ctx: Context, event: IngressEvent) -> None:
    stay()
""",
    "an import": "stay()",
}


@pytest.mark.parametrize("held", HELD)
def test_what_cannot_be_ended_does_not_hold_the_stop(start_daemon, config, held):
    fifo = config / "is-there"
    os.mkfifo(fifo)
    module = (
        "import time\nfrom pathlib import Path\n"
        "from yoi_daemon.sdk import Context, IngressEvent, Plugin\n"
        f"def stay():\n    Path({str(fifo)!r}).write_text('x')\n    time.sleep(60)\n"
        f'plugin = Plugin("held")\n{HELD[held]}\n'
        '@plugin.ingress("go")\nasync def go(ctx: Context, event: IngressEvent) -> None: ...\n'
    )
    (config / "plugins" / "held.py").write_text(module)
    daemon = start_daemon(config, ready=False, YOI__DAEMON__STOP_TIMEOUT_S="3")
    if held == "a thread in a stop hook":
        daemon.wait_ready()
    else:
        assert fifo.read_text() == "x"
    begun = time.monotonic()
    daemon.signal(signal.SIGTERM)
    if held == "a thread in a stop hook":
        assert fifo.read_text() == "x"
    assert daemon.wait() == 0
    assert time.monotonic() - begun < 3.5
    assert not (daemon.state / "daemon.json").exists()


def test_a_second_interrupt_stops_at_once_while_a_plugin_holds_the_loop(start_daemon, config):
    fifo = config / "is-there"
    os.mkfifo(fifo)
    (config / "plugins" / "busy.py").write_text(
        "from pathlib import Path\n"
        "from yoi_daemon.sdk import Context, IngressEvent, Plugin\n"
        'plugin = Plugin("busy")\n'
        "@plugin.every(seconds=0.1)\n"
        "async def spin(ctx: Context, event: IngressEvent) -> None:\n"
        f"    Path({str(fifo)!r}).write_text('x')\n"
        "    while True:\n        pass\n"
    )
    daemon = start_daemon(config, YOI__DAEMON__STOP_TIMEOUT_S="600")
    assert fifo.read_text() == "x"
    ended = None
    for _ in range(50):  # two that come at the same moment are one
        daemon.signal(signal.SIGINT)
        try:
            ended = daemon.process.wait(0.1)
            break
        except subprocess.TimeoutExpired:
            continue
    assert ended == 130
