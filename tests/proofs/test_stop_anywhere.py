"""SIGTERM at any point of the path, while pushes arrive, a worker answers and a subscriber follows."""

import hashlib
import hmac
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

REPO = Path(__file__).parents[2]
BODY = (REPO / "tests" / "data" / "github_push.json").read_bytes()
SECRET = "a shared secret"
RUNS = 16
BUDGET_S = 10
pytestmark = pytest.mark.prove


def push_until(stopped: threading.Event, api: str) -> None:
    digest = hmac.new(SECRET.encode(), BODY, hashlib.sha256).hexdigest()
    headers = {"X-Hub-Signature-256": f"sha256={digest}", "Content-Type": "application/json"}
    while not stopped.is_set():
        request = urllib.request.Request(f"{api}/hooks/github_watch/push", BODY, headers)
        try:
            urllib.request.urlopen(request, timeout=5).close()
        except urllib.error.HTTPError as error:
            error.close()
        except OSError:
            stopped.wait(0.01)


def follow(observe: str, token: str) -> None:
    try:
        with connect(
            f"{observe}/v1/events?cursor=earliest",
            additional_headers={"Authorization": f"Bearer {token}"},
        ) as stream:
            while True:
                stream.recv(timeout=30)
    except (OSError, WebSocketException, TimeoutError):
        pass


@pytest.mark.parametrize("run", range(RUNS))
def test_it_ends_well_within_its_budget(tmp_path, run):
    config, state = tmp_path / "config", tmp_path / "state"
    shutil.copytree(REPO / "config", config)
    (state / "secrets").mkdir(parents=True, mode=0o700)
    (state / "secrets" / "github_secret").write_text(SECRET)
    listen = {"YOI__API__LISTEN": "127.0.0.1:0", "YOI__OBSERVE__LISTEN": "127.0.0.1:0"}
    command = [sys.executable, "-m", "yoi_daemon", "run", "--config", config, "--state", state]
    with (
        (tmp_path / "log").open("wb") as log,
        subprocess.Popen(
            command, env=os.environ | listen, stdout=subprocess.PIPE, stderr=log, text=True
        ) as daemon,
    ):
        assert daemon.stdout
        words = dict(word.split("=", 1) for word in daemon.stdout.readline().split()[1:])
        token = (state / "admin.token").read_text().strip()
        stopped = threading.Event()
        threads = [
            *(threading.Thread(target=push_until, args=(stopped, words["api"])) for _ in range(3)),
            *(threading.Thread(target=follow, args=(words["observe"], token)) for _ in range(3)),
        ]
        for thread in threads:
            thread.start()
        # Another moment each run; which one it was is in the test's name.
        time.sleep(random.Random(run).uniform(0, 0.6))
        begun = time.monotonic()
        daemon.send_signal(signal.SIGTERM)
        try:
            assert daemon.wait(BUDGET_S + 2) == 0
            assert time.monotonic() - begun < BUDGET_S
        finally:
            stopped.set()
            for thread in threads:
                thread.join(10)
    assert b"Traceback" not in (tmp_path / "log").read_bytes()
    assert not (state / "daemon.json").exists()
