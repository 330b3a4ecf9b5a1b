"""Safe mode and quarantine, as everyone who looks is told of them."""

import json
from collections.abc import AsyncGenerator

import pytest
from prometheus_client import generate_latest

from tests.monitoring.test_service_manager import Ear, managed
from tests.monitoring.test_service_manager import ear as ear
from yoi_daemon.daemon.boot_journal import BootJournal
from yoi_daemon.daemon.daemon import Daemon
from yoi_daemon.daemon.opening import open_daemon
from yoi_daemon.daemon.reloading import reload
from yoi_daemon.front.tokens import Tokens
from yoi_daemon.model.directories import Directories
from yoi_daemon.model.settings import MemoryStoreSettings, Settings
from yoi_daemon.monitoring.metrics import register_metrics

PLUGIN = """
from yoi_daemon.sdk import Plugin
plugin = Plugin("gen")
@plugin.ingress("take")
async def take(ctx, event): ...
"""
MEMORY = Settings(store=MemoryStoreSettings())


@pytest.fixture
def directories(tmp_path) -> Directories:
    (tmp_path / "plugins").mkdir()
    (tmp_path / "state").mkdir()
    (tmp_path / "plugins" / "gen.py").write_text(PLUGIN)
    (tmp_path / "yoi-daemon.toml").write_text("[store]\nkind = 'memory'\n")
    return Directories(tmp_path, tmp_path / "state", tmp_path / "secrets")


@pytest.fixture
async def safe(directories, logged_errors) -> AsyncGenerator[Daemon]:
    async with open_daemon(directories, MEMORY, Tokens("t"), {}, safe="for a reason") as daemon:
        register_metrics(daemon)
        logged_errors.expect("safe mode")
        await daemon.note_ready()
        yield daemon
        await daemon.plugins.shutdown(budget_s=1)


def metric(daemon: Daemon, name: str) -> float:
    lines = generate_latest(daemon.metrics).decode().splitlines()
    (line,) = [line for line in lines if line.startswith(name)]
    return float(line.split()[-1])


def kinds(daemon: Daemon) -> list[tuple[str, dict]]:
    log = daemon.event_log
    events = [json.loads(entry.message) for entry in log.read(log.window().floor, 1 << 30)]
    return [(event["kind"], event["data"]) for event in events]


async def test_it_is_told_until_a_reload_ends_it(safe: Daemon, ear: Ear):
    assert safe.not_ready() == ("safe_mode",)
    (told,) = safe.status().diagnostics
    assert (told.code, told.severity) == ("safe_mode", "error")
    assert told.message.startswith("safe mode: for a reason; ")
    assert "yoi-daemon reload" in told.message
    assert metric(safe, "yoi_safe_mode ") == 1
    assert ("daemon.safe_mode", {"active": True, "reason": "for a reason"}) in kinds(safe)
    async with managed(safe, ear) as (manager, _):
        manager.ready()
        (message,) = ear.heard()
        assert message[1] == "STATUS=Safe mode, no plugin is loaded; yoi-daemon status says why"

        reloaded = await reload(safe)
        assert reloaded.plugins == ("gen",)
        assert safe.not_ready() == ()
        assert safe.status().diagnostics == ()
        assert metric(safe, "yoi_safe_mode ") == 0
        assert ("daemon.safe_mode", {"active": False}) in kinds(safe)
        manager.ready()
        (message,) = ear.heard()
        assert message[1].startswith("STATUS=Serving; ")


async def test_a_reload_of_one_plugin_does_not_end_it(safe: Daemon):
    assert (await reload(safe, "gen")).plugins == ("gen",)
    assert safe.not_ready() == ("safe_mode",)


async def test_a_quarantine_is_told(directories, logged_errors):
    for _ in range(3):
        boots = BootJournal(directories.boots_file, limit=3)
        async with open_daemon(directories, MEMORY, Tokens("t"), {}, boots=boots) as daemon:
            register_metrics(daemon)
            await daemon.plugins.wait_settled()
            assert metric(daemon, "yoi_plugin_quarantined{") == 0
            loaded = daemon.plugins.service("gen").installed.loaded
            assert loaded is not None
            boots.enter("gen", loaded.edition)  # and it ends there
    boots = BootJournal(directories.boots_file, limit=3)
    async with open_daemon(directories, MEMORY, Tokens("t"), {}, boots=boots) as daemon:
        register_metrics(daemon)
        logged_errors.expect("quarantined")
        await daemon.note_ready()
        assert metric(daemon, "yoi_plugin_quarantined{") == 1
        assert daemon.not_ready() == ()
        state = [data for kind, data in kinds(daemon) if kind == "plugin.state"][-1]
        assert (state["state"], state["reason"]["code"]) == ("failed", "quarantined")


async def test_a_journal_that_cannot_be_written_is_told(directories):
    directories.boots_file.mkdir()
    (directories.boots_file / "x").touch()
    boots = BootJournal(directories.boots_file, limit=3)
    async with open_daemon(directories, MEMORY, Tokens("t"), {}, boots=boots) as daemon:
        register_metrics(daemon)
        await daemon.plugins.wait_settled()
        (told,) = daemon.status().diagnostics
        assert (told.code, told.severity) == ("boot_journal", "warning")
        assert daemon.plugins.service("gen").lifecycle.state in ("starting", "running")
        await daemon.plugins.shutdown(budget_s=1)
