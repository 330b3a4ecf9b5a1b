"""What leaves the house: a canary in every secret, path, token and environment value is in no answer and no frame."""

import base64
import json
import socket
import time
import urllib.parse
import urllib.request
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

MARK = "Kanarie7é"
"""Of every canary; the é differs raw, URL-escaped and JSON-escaped."""
PLAIN = "Kanarie8"
"""For what must be ASCII: the token, and variables."""


def forms(text: str) -> set[bytes]:
    """How `text` may look in an answer: raw, JSON- and URL-escaped, and in base64 at each alignment."""
    found = {text.encode(), json.dumps(text)[1:-1].encode()}
    found |= {urllib.parse.quote(text).encode(), urllib.parse.quote_plus(text).encode()}
    for data in (text.encode(), urllib.parse.quote(text).encode()):
        for shift in range(3):
            encoded = base64.b64encode(b"\0" * shift + data)
            # Characters at the ends depend on what stands beside.
            found.add(encoded[4 if shift else 0 : len(encoded) - 4])
            found.add(encoded[4 if shift else 0 : len(encoded) - 4].translate(_URL_SAFE))
    return found


_URL_SAFE = bytes.maketrans(b"+/", b"-_")
FORMS = forms(MARK) | forms(PLAIN)


def hits(data: bytes) -> set[bytes]:
    return {form for form in FORMS if form in data}


PLUGIN = """
import os
from yoi_daemon.sdk import Config, Context, IngressEvent, Plugin, Secret
import msgspec

class Settings(Config):
    secret: Secret

plugin = Plugin("p", config=Settings)

@plugin.ingress("ok")
async def ok(ctx: Context[Settings], event: IngressEvent) -> None:
    await ctx.emit("seen", {"config": str(ctx.config), "secret": str(ctx.config.secret)})

@plugin.ingress("missing")
async def missing(ctx: Context[Settings], event: IngressEvent) -> None:
    open(os.path.join(os.path.dirname(__file__), "nothing", "here"))

@plugin.ingress("fetch")
async def fetch(ctx: Context[Settings], event: IngressEvent) -> None:
    raise ConnectionError("https://user:@MARK@@host.example/path refused")

@plugin.ingress("blurt")
async def blurt(ctx: Context[Settings], event: IngressEvent) -> None:
    ctx.log.info("about to", secret=ctx.config.secret.reveal(), headers={"Cookie": "@MARK@ secret"})
    raise ValueError("no such key: " + ctx.config.secret.reveal())

@plugin.ingress("hook", verify="github")
async def hook(ctx: Context[Settings], event: IngressEvent) -> None: ...

class Empty(msgspec.Struct): ...

@plugin.tool("fail")
async def fail(ctx: Context[Settings], args: Empty) -> Empty:
    open(os.path.join(os.path.dirname(__file__), "nothing"))
    return Empty()

@plugin.status
async def status(ctx: Context[Settings]) -> dict[str, str]:
    return {"secret": repr(ctx.config.secret)}
""".replace("@MARK@", MARK)
BAD_IMPORT = "open(__file__ + '/nothing')\n"
NEEDS_SECRET = PLUGIN.replace('Plugin("p"', 'Plugin("needs"')


class Sweep:
    """Asks, and keeps every byte that was answered."""

    def __init__(self, daemon) -> None:
        self.daemon = daemon
        self.seen: list[tuple[str, bytes]] = []

    def __call__(self, method: str, path: str, body=None, token: bool = True, **headers: str):
        data = None if body is None else json.dumps(body).encode()
        sent = {"Content-Type": "application/json"} | headers
        if token:
            sent["Authorization"] = f"Bearer {self.daemon.token}"
        asked = urllib.request.Request(self.daemon.api + path, data, sent, method=method)
        try:
            answer = urllib.request.urlopen(asked, timeout=10)
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            content = answer.read()
            self.seen.append((f"{method} {path}", content + str(answer.headers).encode()))
            is_json = "json" in (answer.headers.get("Content-Type") or "")
            return json.loads(content) if content and is_json else None

    def found(self) -> dict[str, set[bytes]]:
        return {what: hits(data) for what, data in self.seen if hits(data)}


@pytest.fixture
def daemon(start_daemon, tmp_path):
    config, state, recorded = (
        tmp_path / f"{MARK} {name}" for name in ("config", "state", "recorded")
    )
    for directory in (config / "plugins", state / "secrets", recorded):
        directory.mkdir(parents=True, mode=0o700)
    state.chmod(0o700)
    config.chmod(0o770)  # which is told, but not where it is
    (state / "secrets").chmod(0o720)
    (state / "admin.token").write_text(f"yoi_{PLAIN}_token\n")
    (state / "admin.token").chmod(0o600)
    (state / "secrets" / "the_secret").write_text(f"{MARK} secret\n")
    (config / "plugins" / "p.py").write_text(PLUGIN)
    (config / "plugins" / "broken.py").write_text(BAD_IMPORT)
    (config / "plugins" / "needs.py").write_text(NEEDS_SECRET)
    (config / "plugins" / "odd name.py").write_text("")
    (recorded / "bad.json").write_text(json.dumps({"state": MARK, "created_at": 1}))
    (recorded / "link.json").symlink_to(state / "admin.token")
    write_config(config, recorded)
    return start_daemon(config, state, YOI_TEST_VALUE=f"{PLAIN} value")


def write_config(config: Path, recorded: Path, extra: str = "") -> None:
    (config / "yoi-daemon.toml").write_text(
        "[plugins.p]\nattempts = 1\nconfig = {secret = 'the_secret'}\n"
        f"[plugins.needs]\nconfig = {{secret = 'no_such_{PLAIN}'}}\n"
        f"[runtimes.recorded]\nkind = 'local_compat'\ndirectory = '{recorded}'\n"
        f"[runtimes.gone]\nkind = 'local_compat'\ndirectory = '{recorded}/gone'\n{extra}"
    )


def until(holds) -> None:
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline


def frames(daemon, path: str) -> list[bytes]:
    """What one subscriber hears from the beginning, up to a moment's silence."""
    heard = []
    address = f"{daemon.observe}{path}"
    with connect(address, additional_headers={"Authorization": f"Bearer {daemon.token}"}) as stream:
        try:
            while True:
                message = stream.recv(timeout=0.5)
                heard.append(message if isinstance(message, bytes) else message.encode())
        except (TimeoutError, ConnectionClosed):
            return heard


def walk(ask: Sweep) -> None:
    """The whole API: every route, good and bad."""
    daemon = ask.daemon
    until(lambda: ask("GET", "/api/plugins/p")["state"] == "running")
    for ingress in ("ok", "missing", "fetch", "blurt", "nope", "hook"):
        ask("POST", f"/api/plugins/p/ingress/{ingress}", {})
    ask("POST", "/hooks/p/hook", {}, token=False)
    until(lambda: ask("GET", "/api/plugins/p")["counters"].get("dead_lettered", 0) >= 3)
    ask("POST", "/api/tools/p/fail", {})
    workers = "/api/runtimes/backend-internal/workers"
    made = ask("POST", workers, {"input": "hello"})["worker"]["worker_id"]
    ask("POST", f"{workers}/{made}/cancel")
    ask("POST", f"{workers}/{made}/stop", {})
    ask("POST", f"{workers}/{made}/input", {"text": "late"})
    for dead in ask("GET", "/api/plugins/p/dead-letters")["items"]:
        ask("GET", f"/api/plugins/p/dead-letters/{dead['event_id']}")
    for path in (
        "/healthz", "/readyz", "/metrics", "/openapi.json", "/api/status", "/api/plugins", "/api/plugins/broken",
        "/api/plugins/needs", "/api/tools", "/api/runtimes", "/api/runtimes/recorded", "/api/runtimes/gone",
        "/api/workers", workers, f"{workers}/{made}", f"{workers}/{made}/transcript",
        "/api/runtimes/recorded/workers", "/api/runtimes/recorded/workers/bad",
        "/api/runtimes/recorded/workers/link", "/api/runtimes/gone/workers", "/nowhere",
    ):  # fmt: skip
        ask("GET", path)
        ask("GET", path, token=False)
    ask("POST", "/api/runtimes/recorded/workers", {})
    write_config(daemon.config, daemon.config.parent / f"{MARK} recorded", "[nope]\n")
    ask("POST", "/api/reload")
    (daemon.config / "plugins" / "p.py").write_text("def (:\n")
    ask("POST", "/api/plugins/p/reload")
    (daemon.config / "yoi-daemon.toml").write_text(f"[{MARK}\n")
    ask("POST", "/api/reload")
    ask("POST", "/api/plugins/p/restart")
    ask("POST", "/api/plugins/p/stop")
    with socket.create_connection(
        tuple(daemon.api.removeprefix("http://").split(":"))
    ) as raw:  # what is answered before any route
        raw.settimeout(5)
        raw.sendall(b"GET / HTTP/1.1\r\nHost: elsewhere\r\n\r\n")
        ask.seen.append(("raw", raw.recv(65536)))
    for path in ("/v1/events?cursor=earliest", "/v1/plugins/p/events?cursor=earliest"):
        for frame in frames(daemon, path):
            ask.seen.append((path, frame))


def test_nothing_that_leaves_holds_a_secret_a_path_a_token_or_an_address(daemon):
    ask = Sweep(daemon)
    walk(ask)
    assert len(ask.seen) > 60
    assert ask.found() == {}
    assert daemon.stop() == 0
    # The log may name places of this machine, and may not hold what is secret.
    log = "".join(daemon.lines)
    assert "no such key: [redacted]" in log
    for secret in (f"{MARK} secret", json.dumps(f"{MARK} secret")[1:-1], f"yoi_{PLAIN}_token"):
        assert secret not in log


@pytest.mark.parametrize(
    "leak",
    [
        f"see {MARK}",
        json.dumps(MARK),
        urllib.parse.quote(f"/{MARK}/x"),
        *(base64.b64encode(b"x" * n + MARK.encode() + b"y" * 5).decode() for n in range(4)),
        f"Bearer yoi_{PLAIN}_token",
    ],
)
def test_the_control_a_route_that_leaks_is_caught(leak):
    assert hits(leak.encode())
    assert not hits(b"an answer without it")
