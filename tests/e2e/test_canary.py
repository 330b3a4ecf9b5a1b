"""What leaves the house: a canary in every secret, path, token, URL and environment value is in no answer and no frame.

The search itself is in `conftest.py`, over every byte that any daemon of the end-to-end tests sent. Here is
one that meets as many faults as there are, and the control.
"""

import base64
import json
import re
import socket
import time
import urllib.parse
import urllib.request
from itertools import product
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.e2e.canaries import MARK, PLAIN, forms, hits

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
    return start_daemon(config, state)


def write_config(config: Path, recorded: Path, extra: str = "") -> None:
    (config / "yoi-daemon.toml").write_text(
        f"[api]\nhosts = ['{PLAIN.lower()}.example']\norigins = ['https://{PLAIN.lower()}.example']\n"
        "[plugins.p]\nattempts = 1\nconfig = {secret = 'the_secret'}\n"
        f"[plugins.needs]\nconfig = {{secret = 'no_such_{PLAIN}'}}\n"
        f"[runtimes.recorded]\nkind = 'local_compat'\ndirectory = '{recorded}'\n"
        f"[runtimes.gone]\nkind = 'local_compat'\ndirectory = '{recorded}/gone'\n{extra}"
    )


def until(holds) -> None:
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline


def frames(daemon, path: str) -> int:
    """Listens from the beginning, up to a moment's silence; how many messages that were."""
    heard = 0
    address = f"{daemon.observe}{path}"
    with connect(address, additional_headers={"Authorization": f"Bearer {daemon.token}"}) as stream:
        try:
            while True:
                stream.recv(timeout=0.5)
                heard += 1
        except (TimeoutError, ConnectionClosed):
            return heard


def make_trouble(daemon) -> dict[str, list[str]]:
    """Everything that can go wrong; gives the ids there are, by the parameter they fill."""

    def ask(method: str, path: str, body=None, **options):
        return daemon.request(method, path, body, **options)[1]

    until(lambda: ask("GET", "/api/plugins/p")["state"] == "running")
    for ingress in ("ok", "missing", "fetch", "blurt", "nope", "hook"):
        ask("POST", f"/api/plugins/p/ingress/{ingress}", {})
    ask("POST", "/hooks/p/hook", {}, token=False)
    until(lambda: ask("GET", "/api/plugins/p")["counters"].get("dead_lettered", 0) >= 3)
    ask("POST", "/api/tools/p/fail", {})
    workers = "/api/runtimes/backend-internal/workers"
    made = ask("POST", workers, {"input": "hello"})["worker"]["worker_id"]
    letters = ask("GET", "/api/plugins/p/dead-letters")["items"]
    return {
        "plugin_id": ["p", "broken", "needs", "nope"],
        "ingress": ["ok", "missing", "hook"],
        "tool": ["fail", "nope"],
        "event_id": [*(letter["event_id"] for letter in letters), "nope"],
        "runtime_id": ["backend-internal", "recorded", "gone", "nope"],
        "worker_id": [made, "bad", "link", "nope"],
    }


def walk(daemon, there: dict[str, list[str]]) -> int:
    """Every operation of the API's own page with everything there is, with a token and without; how many requests."""
    _, page = daemon.request("GET", "/openapi.json")
    asked = 0
    for path, operations in page["paths"].items():
        names = re.findall(r"{(\w+)}", path)
        for chosen in product(*(there.get(name, ["nope"]) for name in names)):
            target = path.format_map(dict(zip(names, chosen, strict=True)))
            for method, token in product(operations, (True, False)):
                body = None if method == "get" else {}
                speak(daemon, method.upper(), target, body, token=token)
                asked += 1
    return asked


def speak(daemon, method: str, path: str, body, *, token: bool) -> None:
    """A request whose answer may be anything: it is recorded where it is sent."""
    sent = {"Content-Type": "application/json"}
    if token:
        sent["Authorization"] = f"Bearer {daemon.token}"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(daemon.api + path, data, sent, method=method)
    try:
        answer = urllib.request.urlopen(request, timeout=10)
    except urllib.error.HTTPError as error:
        answer = error
    with answer:
        answer.read()


def test_nothing_that_leaves_holds_a_secret_a_path_a_token_or_an_address(daemon):
    there = make_trouble(daemon)
    assert walk(daemon, there) > 200
    write_config(daemon.config, daemon.config.parent / f"{MARK} recorded", "[nope]\n")
    daemon.request("POST", "/api/reload")
    (daemon.config / "plugins" / "p.py").write_text("def (:\n")
    daemon.request("POST", "/api/plugins/p/reload")
    (daemon.config / "yoi-daemon.toml").write_text(f"[{MARK}\n")
    daemon.request("POST", "/api/reload")
    host, _, port = daemon.api.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port))) as raw:  # what is answered before any route
        raw.settimeout(5)
        raw.sendall(b"GET / HTTP/1.1\r\nHost: elsewhere\r\nConnection: close\r\n\r\n")
        refused = raw.makefile("rb").read()
        assert b"host_not_allowed" in refused
    assert frames(daemon, "/v1/events?cursor=earliest") > 20
    frames(daemon, "/v1/plugins/p/events?cursor=earliest")
    assert daemon.stop() == 0
    sent = daemon.sent()
    assert refused in sent
    assert len(b"".join(sent)) > 100_000
    assert daemon.leaks() == set()
    # The log may name places of this machine, and may not hold what is secret.
    log = "".join(daemon.lines)
    assert "no such key: [redacted]" in log
    for secret in (f"{MARK} secret", json.dumps(f"{MARK} secret")[1:-1], daemon.token):
        assert secret not in log


def test_a_listener_on_a_path_tells_no_path(start_daemon, config, tmp_path):
    daemon = start_daemon(config, YOI__OBSERVE__LISTEN=f"unix:{tmp_path}/o.sock")
    status, page = daemon.request("GET", "/api/status")
    assert (status, page["observe"]["enabled"]) == (200, True)


LEAKY = """
import base64, json, os, sys, urllib.parse
from yoi_daemon.api import status
from yoi_daemon.api.routing import Answer, Request, Route

HOW = {
    "raw": lambda text: text,
    "url": urllib.parse.quote,
    "json": lambda text: json.dumps(json.dumps(text)),
    **{f"base64+{n}": lambda text, n=n: base64.b64encode(b"x" * n + text.encode()).decode() for n in range(3)},
}

async def leak(request: Request) -> Answer:
    "Tells what it must not."
    directories = request.daemon.directories
    what = {
        "path": str(directories.state),
        "token": (directories.state / "admin.token").read_text().strip(),
        "secret": (directories.state / "secrets" / "it").read_text(),
        "value": os.environ["YOI_TEST_VALUE"],
        "nothing": "",
    }[request.params["what"]]
    return Answer(HOW[request.params["how"]](what))

status.ROUTES += (Route("GET", "/leak/<what>/<how>", "status:read", leak, gives=str),)
from yoi_daemon.cli.main import main
main()
"""


def test_the_control_a_route_that_leaks_is_caught(start_daemon, config, tmp_path):
    start_daemon.may_leak = True
    secrets = tmp_path / "state" / "secrets"
    secrets.mkdir(parents=True, mode=0o700)
    secrets.parent.chmod(0o700)
    (secrets / "it").write_text("hunter2 and more")
    daemon = start_daemon(config, code=LEAKY)
    ways = ("raw", "url", "json", "base64+0", "base64+1", "base64+2")
    asked = [("nothing", "raw"), *product(("path", "token", "secret", "value"), ways)]
    for what, how in asked:
        assert daemon.request("GET", f"/leak/{what}/{how}")[0] == 200
    assert daemon.stop() == 0
    missed = [data for data in daemon.sent() if not hits(data, daemon.canaries())]
    assert [data.rpartition(b"\r\n\r\n")[2] for data in missed] == [b'""']


@pytest.mark.parametrize("text", [MARK, PLAIN, f"yoi_{PLAIN}_token", "/a/path of/ours"])
def test_every_form_is_known_whatever_stands_beside_it(text):
    beside = "é/ +"
    whole = f"{beside}{text}{beside}"
    for form in (whole, json.dumps(whole), json.dumps(json.dumps(whole)), ascii(whole)):
        assert hits(form.encode(), [text])
    for quote in (urllib.parse.quote, urllib.parse.quote_plus):
        assert hits(quote(whole).encode(), [text])
    for length in range(4):
        for data in (text, urllib.parse.quote(text)):
            encoded = base64.b64encode(b"x" * length + data.encode() + b"y" * 5)
            assert hits(encoded, [text])
            assert hits(encoded.translate(bytes.maketrans(b"+/", b"-_")), [text])
    assert not hits(b"an answer without it", [text])
    assert all(len(form) >= 8 for form in forms(text))
