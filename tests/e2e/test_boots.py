"""A daemon that dies while it comes up, again and again: who is held back, what waits, and how it ends."""

import pytest

from tests.e2e.boots import AT_IMPORT, GOOD, LATER, STEADY, die, hold_back, record, write


def test_the_plugin_that_three_boots_died_on_is_held_back_and_the_others_run(start_daemon, config):
    hold_back(start_daemon, config, AT_IMPORT, 3)


@pytest.mark.prove
def test_what_dies_of_nobody_knows_what_starts_without_plugins_and_keeps_what_waits(
    start_daemon, config
):
    write(config, steady=STEADY)
    (config / "yoi-daemon.toml").write_text("[plugins.steady]\nenabled = true\n")
    daemon = start_daemon(config)
    record(daemon, "steady", "running")
    assert daemon.stop() == 0
    write(config, bad=LATER)
    assert die(start_daemon, config) == [4] * 3

    daemon = start_daemon(config)
    assert daemon.request("GET", "/readyz") == (503, {"ready": False, "codes": ["safe_mode"]})
    for plugin_id in ("steady", "bad"):
        told = record(daemon, plugin_id, "stopped")
        assert told["reason"]["code"] == "safe_mode"
        for path in (f"/api/plugins/{plugin_id}/ingress/take", f"/hooks/{plugin_id}/take"):
            status, problem = daemon.request("POST", path, 1)
            assert (status, problem["code"], problem["retryable"]) == (503, "safe_mode", True)
    status, page = daemon.request("GET", "/api/status")
    (told,) = [one for one in page["diagnostics"] if one["severity"] == "error"]
    assert told["code"] == "safe_mode"
    assert "the last 3 starts died, and no plugin was being loaded or started" in told["message"]
    assert "yoi-daemon reload" in told["message"]
    assert '"event": "safe mode"' in "".join(daemon.lines)

    # One by name; the rest by a reload, which ends it.
    assert daemon.request("POST", "/api/plugins/steady/start")[0] == 200
    record(daemon, "steady", "running")
    assert daemon.request("POST", "/api/plugins/steady/ingress/take", 1)[0] == 202
    assert daemon.request("GET", "/readyz")[0] == 503
    write(config, bad=GOOD)
    status, answer = daemon.request("POST", "/api/reload")
    assert (status, answer["plugins"]) == (200, ["bad"])
    record(daemon, "bad", "running")
    assert daemon.request("GET", "/readyz")[0] == 200
    assert daemon.stop() == 0
