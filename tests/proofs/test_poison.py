"""An event that ends its process every time it is tried: dead after its attempts, and nothing else is."""

import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from pathlib import Path
from statistics import quantiles

import pytest

from tests.e2e.conftest import DaemonProcess

pytestmark = pytest.mark.prove
PLUGIN = """
import os, signal, time
import trio
from yoi_daemon.sdk import Context, IngressEvent, Plugin

plugin = Plugin("{name}")
ledger = os.open(os.environ["LEDGER"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)

@plugin.ingress("take")
async def take(ctx: Context, event: IngressEvent) -> None:
    if event.payload == "poison":
        await trio.sleep({delay_s})
        {end}
    os.write(ledger, f"{name} {{event.id}} {{os.getpid()}} {{time.monotonic()}}\\n".encode())
"""
ENDS = {"killed": "os.kill(os.getpid(), signal.SIGKILL)", "exited": "os._exit(1)"}
NEIGHBOURS = 8
PERIOD_S = 0.04
USUAL_S = 5.0
NOISE_S = 0.1
"""What a machine with other work adds to a p99 of some hundred events, both times."""


class Steady(threading.Thread):
    """Another plugin's events, one after the other; when each was sent, and to which process."""

    def __init__(self, state: Path) -> None:
        super().__init__(daemon=True)
        self.daemon_process: DaemonProcess
        self.sent: dict[str, tuple[float, int]] = {}
        self.stopped = threading.Event()
        self._state = state

    def run(self) -> None:
        while not self.stopped.wait(PERIOD_S):
            begun, target = time.monotonic(), self.daemon_process
            try:
                status, receipt = target.request("POST", "/api/plugins/steady/ingress/take", {})
            except (OSError, ValueError):
                continue  # between two processes
            if status == 202:
                self.sent[receipt["event_id"]] = (begun, target.process.pid)


@pytest.mark.parametrize("end", ENDS)
def test_it_is_dead_after_its_attempts_and_the_others_do_not_feel_it(
    tmp_path: Path, end: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config, state, ledger = tmp_path / "config", tmp_path / "state", tmp_path / "ledger"
    (config / "plugins").mkdir(parents=True)
    for name in ("bad", "steady"):
        code = PLUGIN.format(name=name, end=ENDS[end], delay_s=1.0)
        (config / "plugins" / f"{name}.py").write_text(code)
    daemons = [DaemonProcess(config, state, LEDGER=str(ledger))]
    try:
        daemon = daemons[0].wait_ready()
        steady = Steady(state)
        steady.daemon_process = daemon
        steady.start()
        time.sleep(USUAL_S)
        usual_until = time.monotonic()
        batch = [b'{"ingress": "take", "payload": "ok"}'] * NEIGHBOURS
        batch.insert(NEIGHBOURS // 2, b'{"ingress": "take", "payload": "poison"}')
        _, poison_id = send_batch(daemon, batch)
        deaths = 0
        while True:
            try:
                daemon.wait(8)
            except subprocess.TimeoutExpired:
                break  # it lives
            deaths += 1
            assert deaths < 10
            daemons.append(DaemonProcess(config, state, LEDGER=str(ledger)))
            daemon = daemons[-1]
            steady.daemon_process = daemon.wait_ready()
        steady.stopped.set()
        steady.join(10)
        _, page = daemon.request("GET", "/api/plugins/bad/dead-letters")
        (letter,) = page["items"]
        assert letter["event_id"] == poison_id
        assert [one["code"] for one in letter["attempts"]] == ["process_died"] * 3
        # Once among others, where nobody is charged, or not; then alone until its attempts are used.
        assert deaths in (3, 4)
        _, told = daemon.request("GET", "/api/plugins/bad")
        assert (told["state"], told["queue_depth"]) == ("running", 0)
        assert told["counters"]["dead_lettered"] == 1
        wait_handled(ledger, steady.sent)
        assert daemon.stop() == 0
    finally:
        for one in daemons:
            one.end()
    noted = [line.split() for line in ledger.read_text().splitlines()]
    neighbours = Counter(event_id for name, event_id, *_ in noted if name == "bad")
    assert len(neighbours) == NEIGHBOURS
    times = {event_id: (int(pid), float(at)) for _, event_id, pid, at in noted}
    usual: list[float] = []
    beside: list[float] = []
    for event_id, (begun, pid) in steady.sent.items():
        handled_by, at = times[event_id]
        if handled_by == pid:  # what waited over a start waited for the start
            (usual if at < usual_until else beside).append(at - begun)
    usual_s, beside_s = p99(usual), p99(beside)
    with capsys.disabled():
        print(
            f"\n{end}: {deaths} deaths; other lane p99 {usual_s * 1000:.1f} ms of {len(usual)} before, "
            f"{beside_s * 1000:.1f} ms of {len(beside)} beside it; load {os.getloadavg()[0]:.1f}"
        )
    assert beside_s < 2 * usual_s + NOISE_S


def send_batch(daemon: DaemonProcess, lines: list[bytes]) -> tuple[list[str], str]:
    """Sends NDJSON; the events' ids, and the poison's."""
    request = urllib.request.Request(
        f"{daemon.api}/api/plugins/bad/ingress",
        b"\n".join(lines),
        {"Authorization": f"Bearer {daemon.token}", "Content-Type": "application/x-ndjson"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        ids = [json.loads(line)["event_id"] for line in answer.read().splitlines()]
    return ids, ids[NEIGHBOURS // 2]


def wait_handled(ledger: Path, sent: dict[str, tuple[float, int]]) -> None:
    """None of the other lane's is stuck."""
    deadline = time.monotonic() + 20
    while not set(sent) <= {line.split()[1] for line in ledger.read_text().splitlines()}:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def p99(times: list[float]) -> float:
    return quantiles(times, n=100, method="inclusive")[98]


def test_the_negative_control_a_crash_that_does_not_count_goes_on_for_ever(tmp_path: Path) -> None:
    """What is tried before it is noted is tried for the first time again and again."""
    config, state, ledger = tmp_path / "config", tmp_path / "state", tmp_path / "ledger"
    (config / "plugins").mkdir(parents=True)
    code = PLUGIN.format(name="bad", end=ENDS["exited"], delay_s=0.5)
    (config / "plugins" / "bad.py").write_text(code)
    weak = (sys.executable, str(Path(__file__).with_name("weak_daemon.py")), "forgetful")
    deaths = 0
    for life in range(6):  # more than its attempts, and one among others
        # The boot journal would end it too, in safe mode.
        ends = {"YOI__DAEMON__BOOT_ATTEMPTS": "0"}
        daemon = DaemonProcess(config, state, weak, LEDGER=str(ledger), **ends)
        try:
            if not life:
                daemon.wait_ready()
                daemon.request("POST", "/api/plugins/bad/ingress/take", "poison")
            deaths += daemon.wait(30) == 1
        finally:
            daemon.end()
    assert deaths == 6


def test_a_plugin_of_which_every_event_is_poison_is_held_back(tmp_path: Path) -> None:
    """Its first events are dead letters by then; those that wait go on waiting, and the others run."""
    config, state, ledger = tmp_path / "config", tmp_path / "state", tmp_path / "ledger"
    (config / "plugins").mkdir(parents=True)
    for name in ("bad", "steady"):
        code = PLUGIN.format(name=name, end=ENDS["exited"], delay_s=0.2)
        (config / "plugins" / f"{name}.py").write_text(code)
    deaths = 0
    while True:
        daemon = DaemonProcess(config, state, LEDGER=str(ledger))
        try:
            if not deaths:
                daemon.wait_ready()
                batch = [b'{"ingress": "take", "payload": "poison"}'] * (NEIGHBOURS + 1)
                send_batch(daemon, batch)
            try:
                daemon.wait(8)
            except subprocess.TimeoutExpired:
                break
            deaths += 1
            assert deaths < 12
        finally:
            if daemon.process.poll() is not None:
                daemon.end()
    try:
        daemon.wait_ready()
        assert deaths == 8  # its attempts, the boots' bound, and two more
        _, told = daemon.request("GET", "/api/plugins/bad")
        assert (told["state"], told["reason"]["code"]) == ("failed", "quarantined")
        _, page = daemon.request("GET", "/api/plugins/bad/dead-letters")
        assert [len(one["attempts"]) for one in page["items"]] == [3, 3]
        assert told["queue_depth"] == NEIGHBOURS + 1 - 2
        assert daemon.request("POST", "/api/plugins/steady/ingress/take", 1)[0] == 202
        assert daemon.stop() == 0
    finally:
        daemon.end()
