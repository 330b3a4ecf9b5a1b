"""What the host tells a boot journal, and how it brings plugins up."""

from collections.abc import Collection
from functools import partial
from types import SimpleNamespace

import pytest
import trio
import trio.testing

from yoi_daemon.model.boots import BootVerdict, Quarantine
from yoi_daemon.model.directories import Directories
from yoi_daemon.model.errors import Refused
from yoi_daemon.model.ids import IdSource
from yoi_daemon.model.redaction import Redaction
from yoi_daemon.model.settings import PluginSettings, Settings
from yoi_daemon.plugins.boots import in_quarantine
from yoi_daemon.plugins.host import PluginHost
from yoi_daemon.plugins.loading.loader import Loader
from yoi_daemon.plugins.opening import open_plugins
from yoi_daemon.store.memory import MemoryStore
from yoi_daemon.trusted_files import trust_for

MODULE = """
from yoi_daemon.sdk import Plugin
plugin = Plugin("{name}")
{start}
@plugin.ingress("take")
async def take(ctx, event): ...
"""
START = """
@plugin.start
async def start(ctx): {does}
"""
TOOL = """
from typing import Any
from yoi_daemon.sdk import Plugin
plugin = Plugin("{name}")
@plugin.tool("do")
async def do(ctx, arguments: dict[str, Any]) -> dict[str, Any]: return {{}}
"""


class Noting:
    """A journal that keeps its steps in memory."""

    def __init__(self, verdict: BootVerdict, quarantined: dict[str, Quarantine]) -> None:
        self.steps: list[str] = []
        self.quarantined = dict(quarantined)
        self.at_work: set[str] = set()
        self._verdict = verdict

    async def begin(self, at_work: Collection[str], attempts) -> BootVerdict:
        self.at_work = set(at_work)
        return self._verdict

    def enter(self, plugin_id: str, edition: str) -> None:
        assert edition
        self.steps.append(f"load {plugin_id}")

    async def enter_start(self, plugin_id: str, edition: str) -> None:
        assert edition
        self.steps.append(f"start {plugin_id}")

    def leave(self, plugin_id: str) -> None:
        self.steps.append(f"leave {plugin_id}")

    def came_up(self, plugin_id: str, edition: str) -> None:
        self.steps.append(f"up {plugin_id}")
        self.quarantined.pop(plugin_id, None)


@pytest.fixture
def place(tmp_path):
    (tmp_path / "plugins").mkdir()
    return tmp_path


@pytest.fixture
def open_host(place, event_log, ids: IdSource):
    directories = Directories(place, place, place / "secrets")

    def open_it(verdict=BootVerdict(), *, safe=None, quarantined=(), settings=Settings()):  # noqa: B008
        boots = Noting(verdict, dict(quarantined))
        loader = Loader(directories, trust_for(directories), Redaction(), boots)
        opened = open_plugins(
            loader, settings, MemoryStore(), event_log, ids, lambda *_: None, boots, safe=safe
        )
        return boots, loader, opened

    return open_it


def write(place, name: str, does: str | None = "...") -> None:
    start = "" if does is None else START.format(does=does)
    (place / "plugins" / f"{name}.py").write_text(MODULE.format(name=name, start=start))


def edition_of(loader: Loader, name: str) -> str:
    return loader.edition(loader.read(loader.discover().found[name]), {})


async def reload(host: PluginHost, settings: Settings, only: str | None = None) -> tuple[str, ...]:
    plan = await host.prepare(settings, only)
    for command in host.take(plan).values():
        await command.outcome()
    return plan.changed


async def test_each_load_and_start_is_noted_before_and_after(open_host, place):
    write(place, "a")
    write(place, "b", None)
    boots, _, opened = open_host()
    async with opened as host:
        await host.wait_settled()
        of_a = [step for step in boots.steps if step.endswith("a")]
        assert of_a == ["load a", "leave a", "start a", "leave a", "up a"]
        # Without a start hook nothing of it runs then.
        assert [step for step in boots.steps if step.endswith("b")] == ["load b", "leave b", "up b"]
        await host.shutdown(budget_s=1)


@pytest.mark.parametrize("does", ["raise ValueError", "1 / 0"])
async def test_one_that_fails_by_itself_is_not_in_hand(open_host, place, does, logged_errors):
    write(place, "a", does)
    boots, _, opened = open_host()
    async with opened as host:
        await host.wait_settled()
        assert boots.steps[:4] == ["load a", "leave a", "start a", "leave a"]
        await host.shutdown(budget_s=1)
    logged_errors.expect("service failed")


async def test_a_module_that_does_not_load_is_not_in_hand(open_host, place, logged_errors):
    (place / "plugins" / "a.py").write_text("1 / 0")
    boots, _, opened = open_host()
    async with opened as host:
        await host.wait_settled()
        assert boots.steps == ["load a", "leave a"]
    logged_errors.expect("import_failed")


async def test_carefully_one_is_up_before_the_next_is_loaded(open_host, place):
    for name in ("a", "b", "c"):
        write(place, name)
    boots, _, opened = open_host(BootVerdict(is_careful=True))
    async with opened as host:
        await host.wait_settled()
        of_one = ["load {0}", "leave {0}", "start {0}", "leave {0}", "up {0}"]
        assert boots.steps == [step.format(name) for name in "abc" for step in of_one]
        await host.shutdown(budget_s=1)


async def test_carefully_no_event_is_handled_before_all_are_up(open_host, place):
    write(place, "a")
    write(place, "b", "await __import__('trio').sleep_forever()")
    _, _, opened = open_host(BootVerdict(is_careful=True))
    async with opened as host:
        a = host.service("a")
        while a.lifecycle.state != "running":
            await a.lifecycle.changed.wait()
        await host.accept("a", "take", b"1")
        await trio.testing.wait_all_tasks_blocked()
        assert (a.lane.depth, a.settlement.counters["handled"]) == (1, 0)
        await host.shutdown(budget_s=1)
        # Nor by the stop: what was accepted stays queued.
        assert (a.lane.depth, a.settlement.counters["handled"]) == (1, 0)


async def test_the_control_in_a_usual_boot_it_is(open_host, place, event_log):
    write(place, "a")
    write(place, "b", "await __import__('trio').sleep_forever()")
    _, _, opened = open_host()
    async with opened as host:
        a = host.service("a")
        while a.lifecycle.state != "running":
            await a.lifecycle.changed.wait()
        await host.accept("a", "take", b"1")
        with trio.fail_after(10):
            while a.lane.depth:
                await event_log.wait_beyond(event_log.head)
        await host.shutdown(budget_s=1)


class Coming:
    """A service that comes up in its time."""

    def __init__(self, plugin_id: str, takes_s: float) -> None:
        self.plugin_id = plugin_id
        self._takes_s = takes_s

    async def settled(self) -> None:
        await trio.sleep(self._takes_s)


@pytest.mark.parametrize(("one_by_one", "begun"), [(True, [0, 7, 60, 60]), (False, [0, 0, 0, 0])])
async def test_one_that_hangs_holds_the_others_up_for_so_long_and_no_longer(
    autojump_clock, one_by_one, begun
):
    times: list[float] = []
    may_dispatch = trio.Event()

    def spawn(_service) -> None:
        assert not may_dispatch.is_set()
        times.append(trio.current_time())

    services = SimpleNamespace(event_log=None, may_dispatch=may_dispatch)
    host = PluginHost(None, None, None, services, spawn)  # type: ignore[arg-type]
    for name, takes_s in (("a", 7), ("b", 1000), ("c", 7), ("d", 7)):
        host.add(Coming(name, takes_s))  # type: ignore[arg-type]
    await host.bring_up(one_by_one=one_by_one)
    assert times == pytest.approx(begun)
    assert may_dispatch.is_set()


async def test_in_safe_mode_nothing_is_loaded_and_the_way_in_says_so(open_host, place, event_log):
    write(place, "a")
    (place / "plugins" / "t.py").write_text(TOOL.format(name="t"))
    boots, _, opened = open_host(safe="for a reason")
    async with opened as host:
        await host.wait_settled()
        assert host.safe_mode == "for a reason"
        assert boots.steps == []
        for name in ("a", "t"):
            service = host.service(name)
            assert (service.lifecycle.state, service.lifecycle.reason.code) == (
                "stopped",
                "safe_mode",
            )
            with pytest.raises(Refused, match="safe_mode"):
                await host.accept(name, "take", b"1")
            with pytest.raises(Refused, match="it is not loaded"):
                await service.stop()
        # By name: loaded and started. A tool has nothing to start, and is there.
        await host.service("a").start()
        await host.service("t").start()
        await host.wait_settled()
        assert host.service("a").lifecycle.state == "running"
        assert host.service("t").lifecycle.state == "ready"
        assert host.safe_mode == "for a reason"
        assert await reload(host, Settings()) == ()
        assert host.safe_mode is None
        await host.shutdown(budget_s=1)


async def test_a_reload_ends_safe_mode_and_starts_what_no_operator_stopped(open_host, place):
    write(place, "a")
    write(place, "b")
    _, _, opened = open_host(BootVerdict(safe="three deaths"))
    async with opened as host:
        await host.service("b").restart()
        await host.service("b").stop()
        assert await reload(host, Settings()) == ("a",)
        await host.wait_settled()
        states = {name: one.lifecycle.state for name, one in host.services.items()}
        assert states == {"a": "running", "b": "stopped"}
        assert host.safe_mode is None
        await host.shutdown(budget_s=1)


async def test_a_refused_reload_leaves_safe_mode_as_it_was(open_host, place):
    write(place, "a")
    write(place, "b")
    _, _, opened = open_host(BootVerdict(safe="three deaths"))
    async with opened as host:
        await host.service("b").start()
        (place / "plugins" / "b.py").write_text("def (:")
        with pytest.raises(Refused, match="invalid_state"):
            await reload(host, Settings())
        assert host.safe_mode == "three deaths"
        assert host.service("a").installed.held is not None
        await host.shutdown(budget_s=1)


async def test_one_in_quarantine_waits_for_another_edition_or_its_name(
    open_host, place, logged_errors
):
    write(place, "a")
    write(place, "b")
    _, loader, _ = open_host()
    found = Quarantine(edition=edition_of(loader, "a"), deaths=3, doing="come up")
    boots, _, opened = open_host(quarantined={"a": found}.items())
    async with opened as host:
        await host.wait_settled()
        service = host.service("a")
        assert (service.lifecycle.state, service.lifecycle.reason.code) == (
            "failed",
            "quarantined",
        )
        assert host.service("b").lifecycle.state == "running"
        assert "load a" not in boots.steps
        assert await reload(host, Settings()) == ()  # as it was: passed over
        assert service.installed.held == in_quarantine(found, "a")

        changed = Settings(plugins={"a": PluginSettings(config={"x": 1})})
        with pytest.raises(
            Refused, match="invalid_state"
        ):  # another edition is tried, and has no x
            await reload(host, changed, "a")
        assert await reload(host, Settings(), "a") == ("a",)
        await host.wait_settled()
        assert (service.lifecycle.state, service.installed.held) == ("running", None)
        assert boots.quarantined == {}
        await host.shutdown(budget_s=1)
    logged_errors.expect("quarantined")


async def test_one_in_quarantine_that_was_changed_is_loaded_at_the_start(open_host, place):
    write(place, "a")
    old = Quarantine(edition="another", deaths=3, doing="come up")
    boots, _, opened = open_host(quarantined={"a": old}.items())
    async with opened as host:
        await host.wait_settled()
        assert host.service("a").lifecycle.state == "running"
        assert boots.quarantined == {}
        await host.shutdown(budget_s=1)


async def test_an_edition_is_of_the_code_and_of_its_table(open_host, place):
    write(place, "a")
    _, loader, _ = open_host()
    source = loader.read(loader.discover().found["a"])
    edition = partial(loader.edition, source)
    assert edition({"x": 1, "y": 2}) == edition({"y": 2, "x": 1})
    assert len({edition({}), edition({"x": 1}), edition({"x": 2})}) == 3
    before = edition({})
    write(place, "a", "1")
    assert edition_of(loader, "a") != before
