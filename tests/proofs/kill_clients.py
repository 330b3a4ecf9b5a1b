"""Clients in a process of their own, as `kill_clients.py STATE ANSWERS`, until SIGTERM.

Each posts one event after the other to the daemon that STATE/daemon.json names, and asks again with
the same key until it has an answer: no answer means unknown. Every answer is a line of ANSWERS.
"""

import http.client
import json
import os
import random
import signal
import sys
import threading
from pathlib import Path
from urllib.parse import urlsplit

CLIENTS = 50
PLUGINS = ("quick", "slow", "shaky")
PAUSE_S = (0.3, 1.2)
AGAIN_SHARE = 0.1
"""Of the accepted are sent once more with their key: the answer must be the same."""
TIMEOUT_S = 10


class Client:
    def __init__(self, number: int, state: Path, answers: int, stopped: threading.Event) -> None:
        self._number = number
        self._state = state
        self._answers = answers
        self._stopped = stopped
        self._random = random.Random(number)
        self._connection: http.client.HTTPConnection | None = None

    def run(self) -> None:
        sent = 0
        while not self._stopped.is_set():
            sent += 1
            key = f"c{self._number}-{sent}"
            plugin = self._random.choice(PLUGINS)
            event_id, tries = self._accepted(plugin, key)
            self._note(plugin=plugin, key=key, event_id=event_id, tries=tries)
            if self._random.random() < AGAIN_SHARE:
                event_id, _ = self._accepted(plugin, key)
                self._note(plugin=plugin, key=key, event_id=event_id, tries=0)
            self._stopped.wait(self._random.uniform(*PAUSE_S))

    def _accepted(self, plugin: str, key: str) -> tuple[str, int]:
        """Sends an event until it is accepted: its id, and how often that took."""
        body = json.dumps({"key": key})
        tries = 0
        while True:
            tries += 1
            try:
                status, answer = self._post(f"/api/plugins/{plugin}/ingress/take", body, key)
            except (OSError, http.client.HTTPException, ValueError, KeyError):
                self._forget()
            else:
                if status == 202:
                    return json.loads(answer)["event_id"], tries
                if status not in (429, 503):
                    raise AssertionError((status, answer))
            threading.Event().wait(0.1)

    def _post(self, path: str, body: str, key: str) -> tuple[int, bytes]:
        if self._connection is None:
            told = json.loads((self._state / "daemon.json").read_text())
            at = urlsplit(told["api"])
            self._connection = http.client.HTTPConnection(at.hostname, at.port, timeout=TIMEOUT_S)
        token = (self._state / "admin.token").read_text().strip()
        headers = {
            "Authorization": f"Bearer {token}",
            "Content-Type": "application/json",
            "Idempotency-Key": key,
        }
        self._connection.request("POST", path, body, headers)
        answer = self._connection.getresponse()
        return answer.status, answer.read()

    def _forget(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _note(self, **told: object) -> None:
        os.write(self._answers, (json.dumps(told) + "\n").encode())


def main() -> None:
    state, answers = Path(sys.argv[1]), sys.argv[2]
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    file = os.open(answers, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    clients = [Client(number, state, file, stopped) for number in range(CLIENTS)]
    threads = [threading.Thread(target=client.run) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os.close(file)


if __name__ == "__main__":
    main()
