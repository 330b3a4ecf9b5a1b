"""The authors' test kit: what it says of a plugin is what the daemon does with it."""

import hashlib
import hmac
import json
import re
import shutil
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from tests.conformance import executor_plain, executor_plugin
from yoi_daemon.daemon.daemon import Daemon
from yoi_daemon.daemon.opening import open_daemon
from yoi_daemon.front.tokens import Tokens
from yoi_daemon.model.configuration import parse_settings
from yoi_daemon.model.directories import Directories
from yoi_daemon.model.errors import ConfigurationError
from yoi_daemon.plugins.loading.source import LoadFailed
from yoi_daemon.sdk import Refused
from yoi_daemon.testing import NotRunning, Result, open_plugin, run

EXECUTOR_PLUGIN = Path(str(executor_plugin.__file__))
EXECUTOR_PLAIN = Path(str(executor_plain.__file__))

BEHAVIOURS: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "returns": ("handled", {"a": 1}, {}),
    "typed": ("typed", {"x": 7}, {}),
    "does not fit": ("typed", {"x": "no"}, {}),
    "type that raises": ("odd", {"x": 1}, {}),
    "mutates": ("mutates", {"list": [1]}, {}),
    "retry": ("retries", "plain", {}),
    "retry with a time": ("retries", 2.5, {}),
    "last retry": ("retries", "plain", {"attempts": 1}),
    "raises": ("raises", "{", {}),
    "last raise": ("raises", "{", {"attempts": 1}),
    "exits": ("exits", "SystemExit", {}),
    "interrupts": ("exits", "KeyboardInterrupt", {}),
    "exits in a thread": ("exits_in_thread", "SystemExit", {}),
    "generator exit": ("generator_exit", None, {}),
    "unspeakable": ("unspeakable", None, {}),
    "unprintable": ("unprintable", None, {}),
    "long": ("long", None, {}),
    "group": ("group", None, {}),
    "group of exits": ("group_of_exits", None, {}),
    "unreadable": ("unreadable", None, {}),
    "thread": ("thread", 5, {}),
    "thread raises": ("thread_raises", None, {}),
    "secretly async": ("secretly_async", None, {}),
    "keeps a cancellation": ("keeps_cancelled", None, {}),
    "sleeps": ("sleeps", None, {"dispatch_timeout_s": 0.3}),
    "cleans up badly": ("cleans_up_badly", None, {"dispatch_timeout_s": 0.3}),
    "emits late": ("emits_late", None, {"dispatch_timeout_s": 0.3}),
    "unknown ingress": ("nothing", None, {}),
    "larger than allowed": ("handled", "x" * 2000, {"event_bytes": 1024}),
}
"""By name: an ingress of the executors' conformance plugin, a payload, and keys of `[plugins.NAME]`."""


@asynccontextmanager
async def daemon_with(file: Path, tmp_path: Path, **settings: Any) -> AsyncGenerator[Daemon]:
    """A whole daemon in memory with the plugin in `file`."""
    directories = Directories(tmp_path / "config", tmp_path / "state", tmp_path / "secrets")
    directories.plugins.mkdir(parents=True)
    directories.state.mkdir()
    shutil.copy(file, directories.plugins)
    lines = "\n".join(f"{key} = {json.dumps(value)}" for key, value in settings.items())
    text = f'[store]\nkind = "memory"\n[plugins.{file.stem}]\n{lines}\n'
    directories.config_file.write_text(text)
    parsed = parse_settings(text, "yoi-daemon.toml", {})
    async with open_daemon(directories, parsed, Tokens("token"), environ={}) as daemon:
        await daemon.plugins.wait_settled()
        yield daemon
        await daemon.plugins.shutdown(budget_s=5)


def events_of(daemon: Daemon) -> list[dict[str, Any]]:
    return [json.loads(entry.message) for entry in daemon.event_log.read(0, 1 << 40)]


Seen = tuple[dict[str, Any] | str, list[tuple[str, Any]]]
"""How the first attempt ended, or the code it was refused with; and what the plugin emitted."""


async def seen_by_the_daemon(
    file: Path, ingress: str, payload: Any, settings: dict[str, Any], tmp_path: Path
) -> Seen:
    async with daemon_with(file, tmp_path, **settings) as daemon:
        try:
            await daemon.plugins.accept(file.stem, ingress, msgspec.json.encode(payload))
        except Refused as refused:
            return refused.code, []
        ended = None
        while ended is None:
            for event in events_of(daemon):
                if event["kind"].startswith("plugin.ingress.") and "attempt" in event["data"]:
                    ended = {"outcome": event["kind"].rpartition(".")[2], **event["data"]}
                    break
            else:
                await daemon.event_log.wait_beyond(daemon.event_log.head)
        emitted = [
            (event["kind"], event["data"])
            for event in events_of(daemon)
            if event["kind"].startswith(f"{file.stem}.")
        ]
        return comparable(ended), [(kind, shape(data)) for kind, data in emitted]


async def seen_by_the_kit(file: Path, ingress: str, payload: Any, settings: dict[str, Any]) -> Seen:
    async with open_plugin(file, **settings) as harness:
        try:
            result = await harness.ingress(ingress, payload)
        except Refused as refused:
            return refused.code, []
        emitted = [(kind, shape(data)) for kind, data in harness.emitted]
        return comparable(msgspec.to_builtins(result)), emitted


def comparable(ended: dict[str, Any]) -> dict[str, Any]:
    """Without what no two runs share: ids, times, and the jitter of a back-off."""
    kept = {"outcome", "attempt", "code", "message", "where"}
    found = {key: value for key, value in ended.items() if key in kept and value is not None}
    found["message"] = re.sub(r"0x[0-9a-f]+", "0x", found.get("message", ""))
    return {**found, "is_retried": ended.get("retry_in_s") is not None}


def shape(data: Any) -> Any:
    if isinstance(data, dict) and "event" in data:
        data = {
            **data,
            "event": {**data["event"], "id": "", "correlation_id": "", "created_at": ""},
        }
    return data


@pytest.mark.parametrize("behaviour", BEHAVIOURS)
def test_the_kit_and_the_daemon_see_the_same(behaviour, tmp_path):
    ingress, payload, settings = BEHAVIOURS[behaviour]
    file = EXECUTOR_PLUGIN
    daemon = trio.run(seen_by_the_daemon, file, ingress, payload, settings, tmp_path)
    kit = trio.run(seen_by_the_kit, file, ingress, payload, settings)
    assert kit == daemon
    if behaviour == "returns":
        assert isinstance(kit[0], dict)
        assert kit[0]["outcome"] == "handled"


def test_the_negative_control_a_difference_would_be_seen(tmp_path):
    """The same plugin under another setting differs, so the comparison is not of nothing."""
    kit = trio.run(seen_by_the_kit, EXECUTOR_PLUGIN, "raises", "{", {})
    daemon = trio.run(seen_by_the_daemon, EXECUTOR_PLUGIN, "raises", "{", {"attempts": 1}, tmp_path)
    assert kit != daemon


TOOLS: dict[str, tuple[str, Any]] = {
    "returns": ("add", {"x": 1}),
    "arguments that do not fit": ("add", {"x": "no"}),
    "no such tool": ("nothing", None),
}


@pytest.mark.parametrize("case", TOOLS)
def test_the_kit_and_the_daemon_call_a_tool_alike(case, tmp_path):
    name, arguments = TOOLS[case]

    async def by_daemon() -> Any:
        async with daemon_with(EXECUTOR_PLAIN, tmp_path) as daemon:
            try:
                encoded = msgspec.json.encode(arguments)
                return json.loads(await daemon.plugins.call_tool("executor_plain", name, encoded))
            except Refused as refused:
                return refused.code, refused.detail

    async def by_kit() -> Any:
        async with open_plugin(EXECUTOR_PLAIN) as harness:
            try:
                return await harness.tool(name, arguments)
            except Refused as refused:
                return refused.code, refused.detail

    assert run(by_kit) == trio.run(by_daemon)


# -- the kit's own face


def written(tmp_path: Path, body: str, name: str = "p") -> Path:
    file = tmp_path / f"{name}.py"
    head = "import time\nimport trio\nfrom yoi_daemon.sdk import *\n"
    file.write_text(f'{head}plugin = Plugin("{name}")\n{body}')
    return file


INGRESS = '@plugin.ingress("go")\nasync def go(ctx, event):\n'


def test_a_plain_def_over_its_deadline_has_timed_out(tmp_path):
    file = written(tmp_path, '@plugin.ingress("go")\ndef go(ctx, event):\n    time.sleep(0.7)\n')

    async def story() -> Result:
        async with open_plugin(file, dispatch_timeout_s=0.1) as harness:
            return await harness.ingress("go")

    assert run(story).outcome == "dispatch_timeout"


def test_state_that_was_changed_and_not_set_is_not_kept(tmp_path):
    file = written(
        tmp_path, f'{INGRESS}    held = await ctx.state.get("list")\n    held.append(2)\n'
    )

    async def story() -> dict[str, Any]:
        async with open_plugin(file, state={"list": [1]}) as harness:
            assert (await harness.ingress("go")).outcome == "handled"
            return harness.state

    assert run(story) == {"list": [1]}


def test_a_retry_begins_when_the_test_says_so(tmp_path):
    file = written(tmp_path, f"{INGRESS}    if event.attempt < 3: raise Retry(after_s=3600)\n")

    async def story() -> list[tuple[str, int]]:
        async with open_plugin(file) as harness:
            results = [await harness.ingress("go"), await harness.retry(), await harness.retry()]
            with pytest.raises(RuntimeError, match="no event waits"):
                await harness.retry()
            return [(result.outcome, result.attempt) for result in results]

    outcomes = run(story)
    assert outcomes == [("retry_scheduled", 1), ("retry_scheduled", 2), ("handled", 3)]


def test_a_timer_fires_when_the_test_says_so(tmp_path):
    file = written(
        tmp_path,
        '@plugin.every(hours=6)\nasync def poll(ctx, event):\n    await ctx.emit("polled")\n',
    )

    async def story() -> list[tuple[str, Any]]:
        async with open_plugin(file) as harness:
            assert harness.emitted == []
            assert (await harness.tick("poll")).outcome == "handled"
            return harness.emitted

    assert run(story) == [("p.polled", None)]


def test_a_webhook_passes_the_real_check_of_its_signature(tmp_path):
    file = tmp_path / "hooked.py"
    file.write_text(
        "from yoi_daemon.sdk import *\n"
        "class Settings(Config):\n    secret: Secret\n"
        'plugin = Plugin("hooked", config=Settings)\n'
        '@plugin.ingress("push", verify="github")\n'
        'async def push(ctx, event):\n    await ctx.emit("pushed", event.payload)\n'
    )
    body = b'{"ref": "main"}'
    signature = "sha256=" + hmac.new(b"hunter2", body, hashlib.sha256).hexdigest()

    async def story() -> None:
        secrets = {"github": "hunter2"}
        async with open_plugin(file, config={"secret": "github"}, secrets=secrets) as harness:
            headers = {"X-Hub-Signature-256": signature, "X-GitHub-Delivery": "d1"}
            assert (await harness.hook("push", body, headers)).outcome == "handled"
            assert harness.emitted == [("hooked.pushed", {"ref": "main"})]
            with pytest.raises(Refused) as refused:
                await harness.hook("push", b"{}", headers)
            assert refused.value.code == "unauthenticated"

    run(story)


def test_workers_are_recorded_and_need_their_grant(tmp_path):
    file = written(
        tmp_path,
        f'{INGRESS}    made = await ctx.workers.create(label="x", input="one")\n'
        '    await ctx.workers.send(made.worker.worker_id, "two")\n',
    )

    async def story(**settings: Any) -> tuple[Result, list[tuple[str, str]]]:
        async with open_plugin(file, **settings) as harness:
            return await harness.ingress("go"), harness.workers.inputs

    async def granted() -> tuple[Result, list[tuple[str, str]]]:
        return await story(grants=["workers:command"])

    result, inputs = run(granted)
    assert (result.outcome, inputs) == ("handled", [("wrk_1", "one"), ("wrk_1", "two")])
    result, inputs = run(story)
    assert (result.outcome, inputs) == ("handler_failed", [])
    assert "has no grant" in (result.message or "")


@pytest.mark.parametrize("style", ["relative import", "future annotations"])
def test_plugins_load_as_in_the_daemon(tmp_path, style):
    if style == "relative import":
        file = tmp_path / "packed"
        file.mkdir()
        (file / "words.py").write_text('WORD = "hello"\n')
        (file / "__init__.py").write_text(
            'from yoi_daemon.sdk import *\nfrom .words import WORD\nplugin = Plugin("packed")\n'
            '@plugin.ingress("go")\nasync def go(ctx, event):\n    await ctx.emit(WORD)\n'
        )
    else:
        file = tmp_path / "later.py"
        file.write_text(
            "from __future__ import annotations\nimport msgspec\nfrom yoi_daemon.sdk import *\n"
            "class Point(msgspec.Struct):\n    x: int\n"
            'plugin = Plugin("later")\n@plugin.ingress("go")\n'
            "async def go(ctx: Context, event: IngressEvent[Point]) -> None:\n"
            '    await ctx.emit("hello", event.payload.x)\n'
        )

    async def story() -> Result:
        async with open_plugin(file) as harness:
            return await harness.ingress("go", {"x": 1})

    assert run(story).outcome == "handled"


LIFE = """
@plugin.start
async def start(ctx):
    ctx.local.began = True
@plugin.stop
async def stop(ctx):
    {stop}
@plugin.status
async def status(ctx):
    return {{"began": ctx.local.began}}
"""


def test_stop_is_called_also_when_the_test_fails(tmp_path):
    marker = tmp_path / "stopped"
    file = written(tmp_path, LIFE.format(stop=f"open({str(marker)!r}, 'w').close()"))

    async def story() -> None:
        async with open_plugin(file) as harness:
            assert await harness.status() == {"began": True}
            assert harness.record.state == "running"
            raise KeyError("the test's own")

    with pytest.raises(KeyError, match="own"):  # and not in a group
        run(story)
    assert marker.exists()


def test_a_stop_that_raises_fails_the_test(tmp_path):
    file = written(tmp_path, LIFE.format(stop="raise ValueError('no')"))

    async def story() -> None:
        async with open_plugin(file):
            pass

    with pytest.raises(NotRunning, match=r"stop_failed: ValueError: no at plugins/p.py:\d+"):
        run(story)


def test_a_start_that_raises_fails_the_test(tmp_path, logged_errors):
    file = written(tmp_path, "@plugin.start\nasync def start(ctx):\n    raise ValueError('no')\n")

    async def story() -> None:
        async with open_plugin(file):
            raise AssertionError("it is not reached")

    with pytest.raises(NotRunning, match="start_failed: ValueError: no"):
        run(story)
    logged_errors.expect("service failed")


def test_what_the_daemon_would_not_load_is_refused_alike(tmp_path):
    async def story(file: Path, **options: Any) -> None:
        async with open_plugin(file, **options):
            raise AssertionError("it is not reached")

    file = written(tmp_path, f"{INGRESS}    pass\n")
    with pytest.raises(LoadFailed) as failed:
        trio.run(lambda: story(file, config={"unknown": 1}))
    assert failed.value.code == "configuration_error"
    with pytest.raises(ConfigurationError, match="attempts"):
        trio.run(lambda: story(file, attempts="many"))
    other = tmp_path / "other.py"
    other.write_text(file.read_text())
    with pytest.raises(LoadFailed, match="must have the name of its file"):
        trio.run(lambda: story(other))


RESOURCE = """
from contextlib import asynccontextmanager
@asynccontextmanager
async def resource():
    try:
        yield
    finally:
        open({marker!r}, "w").close()
@plugin.start
async def start(ctx):
    await ctx.enter(resource())
"""


def test_a_cancelled_test_closes_what_its_plugin_entered(tmp_path):
    marker = tmp_path / "closed"
    file = written(tmp_path, RESOURCE.format(marker=str(marker)))

    async def story() -> bool:
        with trio.CancelScope() as scope:
            async with open_plugin(file):
                scope.cancel()
                await trio.sleep_forever()
        return scope.cancelled_caught

    assert run(story)
    assert marker.exists()
