"""Whatever is malformed gets its own code: alone, a hundred times at once, and all of it shuffled together."""

import random
from collections.abc import Callable

import pytest

from tests.e2e.conftest import start_daemon as start_daemon
from tests.hostile.daemon import Answer, Target, ask, at_once, configure, healthy_requests
from tests.hostile.malformed import (
    BAD_PLUGINS,
    BAD_SETTINGS,
    BadPlugin,
    BadSetting,
    Malformed,
    frames,
    requests,
)

pytestmark = pytest.mark.prove

CASES = [*requests(), *frames()]
TOO_OFTEN = Answer(429, "rate_limited")
AT_ONCE = 100
THREADS = 8
"""Of those who ask at once in the mix; as many ask well when it is measured what that costs others."""
GROWN_BYTES = 5 * 1024 * 1024


@pytest.fixture
def target(start_daemon, tmp_path) -> Target:
    configure(tmp_path / "config", tmp_path / "state")
    return Target(start_daemon(tmp_path / "config", recorded=False))


def _check(case: Malformed, target: Target) -> None:
    answer = case.try_it(target)
    # Who fails to authenticate too often is told that instead.
    is_limited = case.expected.code == "unauthenticated" and answer == TOO_OFTEN
    assert answer == case.expected or is_limited, (case.name, answer)


def _acts(cases: list[Malformed], target: Target) -> list[Callable[[], None]]:
    return [lambda case=case: _check(case, target) for case in cases]


def test_there_are_sixty_and_more() -> None:
    names = [case.name for case in CASES]
    assert len({*names}) == len(names)
    assert len(names) + len(BAD_SETTINGS) + len(BAD_PLUGINS) >= 60


def test_alone(target: Target) -> None:
    for case in CASES:
        _check(case, target)
    _check_well(target)


def test_a_hundred_at_once(target: Target, full: bool) -> None:
    """Beside a healthy client, which no one of them may hinder."""
    cases = CASES if full else random.Random(1).sample(CASES, 8)
    with healthy_requests(target, pause_s=0.02):
        for case in cases:
            at_once(_acts([case] * AT_ONCE, target), threads=AT_ONCE)
    _check_well(target)


def test_all_shuffled(target: Target, full: bool) -> None:
    """What costs others most is many asking at all: that they ask badly may at most double it."""
    count = 10_000 if full else 500
    chosen = random.Random(2).choices(CASES, k=count)
    good = target.request("GET", "/api/plugins")
    well = Malformed("well", Answer(200, ""), lambda t: ask(t.api, good))
    at_once(_acts(chosen[: count // 4], target), threads=THREADS)  # until its memory has settled
    before = target.resident_bytes()
    with healthy_requests(target, pause_s=0.005) as beside_good:
        at_once(_acts([well] * count, target), threads=THREADS)
    with healthy_requests(target, pause_s=0.005) as beside_bad:
        at_once(_acts(chosen, target), threads=THREADS)
    grown = target.resident_bytes() - before
    print(
        f"{count}: {grown / 1024:.0f} KiB more; healthy p99 {beside_bad.p99 * 1e3:.0f} ms, "
        f"{beside_good.p99 * 1e3:.0f} ms beside as many good requests"
    )
    assert grown < GROWN_BYTES
    if full:
        assert beside_bad.p99 <= 2 * beside_good.p99
    _check_well(target)


@pytest.mark.parametrize("bad", BAD_SETTINGS, ids=lambda bad: bad.name)
def test_a_bad_configuration(start_daemon, tmp_path, bad: BadSetting) -> None:
    configure(tmp_path / "config", tmp_path / "state")
    (tmp_path / "config" / "yoi-daemon.toml").write_text(bad.text)
    daemon = start_daemon(tmp_path / "config", ready=False, YOI__OBSERVE__ENABLED="false")
    assert daemon.wait() == 78
    told = "".join(daemon.lines)
    assert bad.key in told
    assert "Traceback" not in told


def test_reloads_of_what_is_bad_are_refused_and_hinder_nobody(
    target: Target, tmp_path, full: bool
) -> None:
    """Each alone, a hundred at once, and beside a healthy client."""
    config = tmp_path / "config"
    settings, plugins = config / "yoi-daemon.toml", config / "plugins"
    good = settings.read_text()
    reload = target.post_json("/api/reload", b"")
    with healthy_requests(target, pause_s=0.02):
        for bad in (*BAD_SETTINGS, *BAD_PLUGINS):
            if isinstance(bad, BadSetting):
                settings.write_text(bad.text)
            else:
                bad.make(plugins)
            assert _faults(target, reload)
            if full:
                refused = Malformed(
                    bad.name, Answer(409, "invalid_state"), lambda t: ask(t.api, reload)
                )
                at_once(_acts([refused] * AT_ONCE, target), threads=20)
            settings.write_text(good)
            (plugins / "bad.py").unlink(missing_ok=True)
    assert target.daemon.request("POST", "/api/reload", b"")[0] == 200
    _check_well(target)


@pytest.mark.parametrize("bad", BAD_PLUGINS, ids=lambda bad: bad.name)
def test_a_bad_plugin_harms_itself_alone(start_daemon, tmp_path, bad: BadPlugin) -> None:
    configure(tmp_path / "config", tmp_path / "state")
    bad.make(tmp_path / "config" / "plugins")
    target = Target(start_daemon(tmp_path / "config", recorded=False))
    status, record = target.daemon.request("GET", "/api/plugins/bad")
    assert status == 200
    assert (record["state"], record["reason"]["code"]) == ("failed", bad.says)
    _check_well(target)


def _faults(target: Target, reload: bytes) -> bool:
    return ask(target.api, reload) == Answer(409, "invalid_state")


def _check_well(target: Target) -> None:
    """It serves, ends in order, and nothing it logged is a fault of ours."""
    assert target.daemon.request("GET", "/api/plugins/target")[1]["state"] == "running"
    assert target.daemon.stop() == 0
    told = "".join(target.daemon.lines)
    assert "Traceback" not in told
    assert "connection_failed" not in told
