"""The boot journal at length: what is a death and whose, what ends a quarantine and safe mode."""

import json
import signal
import time
from contextlib import suppress

import pytest

from tests.e2e.boots import (
    AT_IMPORT,
    AT_START,
    GOOD,
    HANGS,
    LATER,
    PATIENCE_S,
    STEADY,
    die,
    hold_back,
    journal,
    record,
    wait_for_start,
    wait_until_well,
    write,
)
from tests.e2e.conftest import config as config
from tests.e2e.conftest import start_daemon as start_daemon
from tests.e2e.conftest import tmp_path as tmp_path

pytestmark = pytest.mark.prove


def test_a_plugin_that_ends_the_process_in_its_start_is_held_back(start_daemon, config):
    hold_back(start_daemon, config, AT_START, -signal.SIGSEGV)


def test_a_quarantined_plugin_that_was_changed_is_tried_at_the_next_start(start_daemon, config):
    write(config, bad=AT_IMPORT)
    die(start_daemon, config)
    write(config, bad=GOOD)
    daemon = start_daemon(config)
    record(daemon, "bad", "running")
    assert daemon.stop() == 0
    # And the old one, put back, is not held: its quarantine ended.
    write(config, bad=AT_IMPORT)
    assert die(start_daemon, config, 1) == [3]


def test_an_operators_start_tries_it_and_one_that_dies_again_is_held_as_before(
    start_daemon, config
):
    write(config, bad=AT_START)
    die(start_daemon, config)
    daemon = start_daemon(config)
    with suppress(ConnectionError):  # it may be gone before it answers
        daemon.request("POST", "/api/plugins/bad/start")
    assert daemon.wait(PATIENCE_S) == -signal.SIGSEGV
    daemon = start_daemon(config)
    assert record(daemon, "bad", "failed")["reason"]["code"] == "quarantined"
    assert daemon.stop() == 0


def test_what_was_accepted_waits_in_safe_mode_and_is_handled_after_it(start_daemon, config):
    write(
        config, steady=STEADY.replace('await ctx.emit("took", event.payload)', "await sleep(600)")
    )
    path = config / "plugins" / "steady.py"
    path.write_text("from trio import sleep\n" + path.read_text())
    daemon = start_daemon(config)
    record(daemon, "steady", "running")
    sent = [daemon.request("POST", "/api/plugins/steady/ingress/take", n)[1] for n in range(3)]
    assert daemon.stop() == 0
    write(config, steady=STEADY)
    daemon = start_daemon(config, code=SAFELY)
    assert record(daemon, "steady", "stopped")["queue_depth"] == 3
    assert "started with --safe" in json.dumps(daemon.request("GET", "/api/status")[1])
    assert daemon.stop() == 0
    daemon = start_daemon(config, code=SAFELY)
    assert record(daemon, "steady", "stopped")["queue_depth"] == 3
    assert daemon.request("POST", "/api/reload")[0] == 200
    deadline = time.monotonic() + PATIENCE_S
    while record(daemon, "steady", "running")["queue_depth"]:
        assert time.monotonic() < deadline
    told = record(daemon, "steady", "running")["counters"]
    assert (told["restored"], told["handled"]) == (len(sent), len(sent))
    assert daemon.stop() == 0


SAFELY = """
import sys
sys.argv.insert(2, "--safe")
from yoi_daemon.cli.main import main
main()
"""


def test_a_restart_in_order_ends_safe_mode(start_daemon, config):
    write(config, bad=LATER)
    die(start_daemon, config)
    daemon = start_daemon(config)
    record(daemon, "bad", "stopped")
    assert daemon.stop() == 0
    assert die(start_daemon, config, 1) == [4]  # tried again


def test_what_holds_the_loop_while_it_starts_and_is_killed_for_it_is_to_blame(start_daemon, config):
    write(config, bad=HANGS, steady=STEADY)
    for _ in range(3):
        before = journal(config.parent / "state")
        daemon = start_daemon(config, ready=False)
        wait_for_start(daemon, before)
        daemon.signal(signal.SIGKILL)  # as a watchdog does
        daemon.wait()
    daemon = start_daemon(config)
    assert record(daemon, "bad", "failed")["reason"]["code"] == "quarantined"
    record(daemon, "steady", "running")
    assert daemon.stop() == 0


def test_kills_of_well_boots_and_ends_that_say_why_are_no_deaths(start_daemon, config):
    write(config, steady=STEADY)
    for _ in range(4):
        daemon = start_daemon(config, YOI__DAEMON__BOOT_HEALTHY_S="0.05")
        wait_until_well(daemon)
        daemon.signal(signal.SIGKILL)
        daemon.wait()
    for _ in range(2):
        daemon = start_daemon(config)
        daemon.signal(signal.SIGKILL)
        daemon.wait()
    # In between: one that cannot start, one that a person ends at once. Neither counts.
    (config / "yoi-daemon.toml").write_text("[nope]\n")
    assert start_daemon(config, ready=False).wait(PATIENCE_S) == 78
    (config / "yoi-daemon.toml").write_text("")
    daemon = start_daemon(config)
    record(daemon, "steady", "running")
    assert daemon.stop() == 0  # and this ends the row
    for _ in range(2):
        daemon = start_daemon(config)
        daemon.signal(signal.SIGKILL)
        daemon.wait()
    daemon = start_daemon(config)
    record(daemon, "steady", "running")
    assert daemon.stop() == 0


def test_the_negative_control_without_the_note_before_it_nobody_is_to_blame(start_daemon, config):
    """A journal that notes what it has lived through names nobody: it ends in safe mode."""
    write(config, bad=AT_IMPORT, steady=STEADY)
    for _ in range(3):
        assert start_daemon(config, ready=False, code=FORGETFUL).wait(PATIENCE_S) == 3
    daemon = start_daemon(config, code=FORGETFUL)
    assert daemon.request("GET", "/readyz")[1]["codes"] == ["safe_mode"]
    assert record(daemon, "bad", "stopped")["reason"]["code"] == "safe_mode"
    assert daemon.stop() == 0


FORGETFUL = """
from yoi_daemon.daemon.boot_journal import BootJournal
def enter(self, plugin_id, edition): ...
BootJournal.enter = enter
from yoi_daemon.cli.main import main
main()
"""
