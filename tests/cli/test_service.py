import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest
import trio

from yoi_daemon.cli.requests import Progress
from yoi_daemon.cli.service import command, failed, follow_command, follow_start
from yoi_daemon.cli.views import PluginView, view
from yoi_daemon.client.locate import Location
from yoi_daemon.client.rest import open_daemon_client
from yoi_daemon.model.errors import Refused, YoiError

LOCATION = Location(api="http://daemon", token="tok", source="test")
CRASH = {"code": "start_failed", "message": "ValueError: no"}


def plugin(state: str, **fields: Any) -> dict[str, Any]:
    return {"plugin_id": "gen", "state": state, "since": "t", "restarts": 0, **fields}


def records(*answers: dict[str, Any]) -> httpx2.MockTransport:
    """A daemon that shows one record after the other, the last one for ever."""
    told: Iterator[dict[str, Any]] = iter(answers)
    last = answers[-1]

    def answer(request: httpx2.Request) -> httpx2.Response:
        assert request.url.path == "/api/plugins/gen"
        return httpx2.Response(200, stream=httpx2.ByteStream(json.dumps(next(told, last)).encode()))

    return httpx2.MockTransport(answer)


async def follow(*answers: dict[str, Any], timeout_s: float = 60) -> dict[str, Any]:
    async with open_daemon_client(LOCATION, transport=records(*answers[1:])) as daemon:
        return await follow_start(daemon, answers[0], timeout_s=timeout_s, progress=Progress())


async def test_it_is_followed_until_it_runs(autojump_clock: object) -> None:
    starting, running = plugin("starting"), plugin("running", since="later")
    assert await follow(starting, starting, starting, starting, running) == running
    assert await follow(running, plugin("failed")) == running  # and no longer


async def test_a_failure_has_its_reason_and_its_place(autojump_clock: object) -> None:
    error = {**CRASH, "where": "plugins/gen.py:3", "time": "t"}
    with pytest.raises(Refused) as caught:
        await follow(
            plugin("starting"),
            plugin("starting"),
            plugin("failed", reason=CRASH, last_error=error, retry_at="soon"),
        )
    assert caught.value.code == "service_failed"
    assert caught.value.detail == (
        "gen failed: start_failed: ValueError: no; it is tried again at soon"
    )
    assert caught.value.fields["where"] == "plugins/gen.py:3"


async def test_a_failure_between_two_looks_is_not_missed(autojump_clock: object) -> None:
    again = plugin("starting", restarts=1, reason={"code": "starting"}, last_error=CRASH)
    with pytest.raises(Refused, match="start_failed: ValueError: no"):
        await follow(plugin("starting"), again)


async def test_an_older_error_is_no_place_of_this_failure() -> None:
    told = plugin("failed", reason=CRASH, last_error={"code": "timeout", "where": "plugins/x.py:1"})
    assert "where" not in failed(view(told, PluginView)).fields
    assert "no reason" in failed(view(plugin("failed"), PluginView)).detail


async def test_the_wait_has_an_end(autojump_clock: object) -> None:
    began = trio.current_time()
    with pytest.raises(YoiError, match=r"still starting after 7 s.*--timeout"):
        await follow(plugin("starting"), plugin("starting"), timeout_s=7)
    assert trio.current_time() - began == pytest.approx(7, abs=0.1)


async def test_somebody_else_who_stops_it_is_said(autojump_clock: object) -> None:
    answer = {"plugin": plugin("starting"), "cursor": "c"}
    async with open_daemon_client(LOCATION, transport=records(plugin("stopped"))) as daemon:
        with pytest.raises(Refused, match="is stopped now"):
            await follow_command(daemon, answer, timeout_s=9, progress=Progress())


async def test_a_command_that_takes_too_long_goes_on_and_says_so(autojump_clock: object) -> None:
    async def silent(request: httpx2.Request) -> httpx2.Response:
        await trio.sleep_forever()
        raise AssertionError

    transport = httpx2.MockTransport(silent)
    async with open_daemon_client(LOCATION, transport=transport, deadline_s=9) as daemon:
        with pytest.raises(YoiError, match=r"goes on; 'yoi-daemon plugin show gen'") as caught:
            await command(daemon, "gen", "stop")
    assert type(caught.value) is YoiError  # the daemon was there


@pytest.fixture
def commanded(run: Any, daemon: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.setattr("yoi_daemon.cli.service.FIRST_LOOK_S", 0.001)
    starting = {"plugin": plugin("starting"), "cursor": "c1"}
    for verb in ("start", "restart"):
        daemon.answers[f"POST /api/plugins/gen/{verb}"] = (200, starting)

    def commanded(verb: str, *more: str) -> Any:
        return run("plugin", verb, "gen", "--state", str(daemon.state), *more)

    return commanded


@pytest.mark.parametrize("verb", ["start", "restart"])
def test_start_and_restart(commanded: Callable[..., Any], daemon: Any, verb: str) -> None:
    daemon.answers["GET /api/plugins/gen"] = [(200, plugin("starting")), (200, plugin("running"))]
    assert commanded(verb) == (0, "gen is running\n", "")
    assert commanded(verb, "--json").json == {"plugin": plugin("running"), "cursor": "c1"}

    daemon.answers["GET /api/plugins/gen"] = (200, plugin("failed", reason=CRASH))
    outcome = commanded(verb)
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err.startswith("yoi-daemon: service_failed: gen failed: start_failed: Value")

    daemon.requests.clear()
    assert commanded(verb, "--no-wait") == (0, "gen is starting\n", "")
    assert [r.method for r in daemon.requests] == ["POST"]


def test_stop_says_what_stays_on_the_queue(commanded: Callable[..., Any], daemon: Any) -> None:
    stopped = {"plugin": plugin("stopped", queue_depth=3), "cursor": "c"}
    daemon.answers["POST /api/plugins/gen/stop"] = (200, stopped)
    assert commanded("stop").out == "gen is stopped, 3 events stay on its queue\n"
    assert commanded("stop", "--json").json == stopped


def test_what_is_wedged_is_not_stopped(commanded: Callable[..., Any], daemon: Any) -> None:
    reason = {"code": "wedged", "message": "push ignores its cancellation, at plugins/gen.py:3"}
    error = {**reason, "where": "plugins/gen.py:3"}
    told = {"plugin": plugin("failed", reason=reason, last_error=error), "cursor": "c"}
    daemon.answers["POST /api/plugins/gen/stop"] = (200, told)
    outcome = commanded("stop")
    assert outcome.code == 1
    assert "only a restart of the daemon frees it" in outcome.err
    assert outcome.err.count("plugins/gen.py:3") == 1


def test_what_cannot_be_commanded_says_why(commanded: Callable[..., Any], daemon: Any) -> None:
    problem = {"code": "invalid_state", "detail": "this plugin has no service to start"}
    daemon.answers["POST /api/plugins/gen/start"] = (409, problem)
    assert commanded("start") == (
        1,
        "",
        "yoi-daemon: invalid_state: this plugin has no service to start\n",
    )
