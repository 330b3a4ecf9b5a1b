"""Workers of the real process, and its end beside engines that do not end."""

import signal
import time

import pytest

WORKERS = "/api/runtimes/backend-internal/workers"
STOP_TIMEOUT_S = 3
# Each is what `echo` does in this process.
ENGINES = {
    "hangs": """
        await trio.sleep_forever()
""",
    "swallows every cancellation": """
        while True:
            try:
                await trio.sleep_forever()
            except BaseException:
                pass
""",
    "waits for a thread": """
        await trio.to_thread.run_sync(time.sleep, 60)
""",
}
PROGRAM = """
import time
import trio
from yoi_daemon.runtime import profiles

class Engine:
    async def run(self, turn):
        await turn.append("assistant", "begun")
{body}

profiles.EchoEngine = Engine
from yoi_daemon.cli.main import main
main()
"""


def at_a_turn(start_daemon, config, engine: str):
    """A daemon, and a worker of its whose turn is under way."""
    environ = {"YOI__DAEMON__STOP_TIMEOUT_S": str(STOP_TIMEOUT_S)}
    daemon = start_daemon(config, code=PROGRAM.format(body=ENGINES[engine]), **environ)
    _, made = daemon.request("POST", WORKERS, {"input": "x"})
    worker = f"{WORKERS}/{made['worker']['worker_id']}"
    deadline = time.monotonic() + 10
    while len(daemon.request("GET", f"{worker}/transcript")[1]["items"]) < 2:
        assert time.monotonic() < deadline
    return daemon, worker


@pytest.mark.parametrize("engine", ENGINES)
def test_the_daemon_stops_in_its_time_beside_an_engine_that_does_not(start_daemon, config, engine):
    daemon, _ = at_a_turn(start_daemon, config, engine)
    begun = time.monotonic()
    daemon.signal(signal.SIGTERM)
    assert daemon.wait() == 0
    assert time.monotonic() - begun < STOP_TIMEOUT_S
    assert not (daemon.state / "daemon.json").exists()
    beside = [line for line in daemon.lines if "stopped beside what still runs" in line]
    # The control: an engine that heeds its cancellation leaves nothing behind.
    assert len(beside) == (engine != "hangs")


def test_a_worker_is_stopped_in_its_grace_and_then_the_daemon(start_daemon, config):
    daemon, worker = at_a_turn(start_daemon, config, "swallows every cancellation")
    begun = time.monotonic()
    status, stopped = daemon.request("POST", f"{worker}/stop", {"grace_s": 0.5})
    assert time.monotonic() - begun < 2
    assert (status, stopped["worker"]["state"]) == (200, "stopped")
    status, gone = daemon.request("POST", f"{worker}/input", {"text": "x"})
    assert (status, gone["code"], gone["state"]) == (410, "worker_gone", "stopped")
    _, runtime = daemon.request("GET", "/api/runtimes/backend-internal")
    assert [one["code"] for one in runtime["diagnostics"]] == ["wedged_turns"]
    begun = time.monotonic()
    assert daemon.stop() == 0
    assert time.monotonic() - begun < STOP_TIMEOUT_S
