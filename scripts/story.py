"""The demonstration: each step is done on a real daemon, checked and printed; exits 1 where one is not as said."""

import hashlib
import hmac
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import httpx2
import trio

from yoi_daemon.client.messages import Hello
from yoi_daemon.client.stream import Subscription, subscribe
from yoi_daemon.model.events import ObservationEvent

REPO = Path(__file__).parents[1]
PATIENCE_S = 10
HOOK = "/hooks/github_watch/push"
FIRST_HALF = ["plugin.ingress.accepted", "github_watch.pushed", "worker.created"]
SECOND_HALF = [
    "worker.input_accepted",
    "plugin.ingress.handled",
    "worker.state",
    "worker.turn.started",
    "worker.item",
    "worker.item",
    "worker.turn.finished",
    "worker.state",
]


def step(text: str) -> None:
    print(f"\n\N{BULLET} {text}")


def check(holds: bool, otherwise: str) -> None:
    if not holds:
        sys.exit(f"demo: not as said: {otherwise}")


def start(state: Path, secret: str) -> tuple[subprocess.Popen[str], str, str]:
    step("start the daemon with config/, on ports of the kernel's choice")
    (state / "secrets").mkdir(mode=0o700)
    (state / "secrets" / "github_secret").write_text(secret)
    listen = {"YOI__API__LISTEN": "127.0.0.1:0", "YOI__OBSERVE__LISTEN": "127.0.0.1:0"}
    daemon = subprocess.Popen(
        [sys.executable, "-m", "yoi_daemon", "run", "--config", REPO / "config", "--state", state],
        env=os.environ | listen,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert daemon.stdout
    line = daemon.stdout.readline().strip()
    print(f"  {line}")
    check(line.startswith("ready "), "no ready line")
    words = dict(word.split("=", 1) for word in line.split()[1:])
    return daemon, words["api"], words["observe"]


def signed(body: bytes, secret: str) -> dict[str, str]:
    digest = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    return {"X-Hub-Signature-256": f"sha256={digest}", "X-GitHub-Event": "push"}


async def follow(events: Subscription, until: list[str]) -> list[ObservationEvent]:
    """The story's events up to as many as `until` has; each printed. Other plugins' are passed over."""
    seen: list[ObservationEvent] = []
    with trio.fail_after(PATIENCE_S):
        async for message in events:
            if isinstance(message, Hello):
                print(f"  hello: resume={message.resume}")
            elif isinstance(message, ObservationEvent) and message.plugin_id != "heartbeat":
                data = json.dumps(message.data)
                print(f"  {message.seq:>4}  {message.kind:<26} {data[:76]}")
                seen.append(message)
                if len(seen) == len(until):
                    break
    return seen


async def tell(api: str, observe: str, token: str, secret: str) -> None:
    body = (REPO / "tests" / "data" / "github_push.json").read_bytes()
    bearer = {"Authorization": f"Bearer {token}"}
    async with httpx2.AsyncClient(base_url=api, trust_env=False) as http:
        step("send a push webhook of GitHub's with a wrong signature")
        answer = await http.post(HOOK, content=body, headers=signed(body, "wrong"))
        print(f"  {answer.status_code} {answer.json()['code']}")
        check(answer.status_code == 401, "a wrong signature was let in")
        record = (await http.get("/api/plugins/github_watch", headers=bearer)).json()
        check(record["counters"] == {}, "it reached the plugin")

        step("subscribe to everything, then send it with the right one")
        async with subscribe(observe, token, cursor="latest") as events:
            with trio.fail_after(PATIENCE_S):
                check(isinstance(await anext(events), Hello), "no hello")
            answer = await http.post(HOOK, content=body, headers=signed(body, secret))
            print(f"  {answer.status_code} {answer.text}")
            check(answer.status_code == 202, "it was not accepted")
            first = await follow(events, FIRST_HALF)
        kinds = [event.kind for event in first]
        check(kinds == FIRST_HALF, f"{kinds}")
        check(first[0].cursor == answer.json()["cursor"], "the receipt's cursor is another")

        step("the connection is cut; reconnect with the last cursor and get exactly the rest")
        async with subscribe(observe, token, cursor=first[-1].cursor) as events:
            rest = await follow(events, SECOND_HALF)
        kinds = [event.kind for event in rest]
        check(sorted(kinds) == sorted(SECOND_HALF), f"{kinds}")
        check(kinds[0] == "worker.input_accepted", "the rest begins elsewhere")
        correlations = {event.correlation_id for event in first + rest}
        check(correlations == {answer.json()["correlation_id"]}, "the steps are not one story")

        step("read what the worker wrote")
        worker = next(event for event in rest if event.worker_id)
        address = f"/api/runtimes/{worker.runtime_id}/workers/{worker.worker_id}/transcript"
        page: dict[str, Any] = (await http.get(address, headers=bearer)).json()
        for item in page["items"]:
            print(f"  {item['role']:>9}: {item['text']}")
        check(
            [item["role"] for item in page["items"]] == ["user", "assistant"], "another transcript"
        )


def main() -> None:
    secret = secrets.token_hex(32)
    with tempfile.TemporaryDirectory() as directory:
        state = Path(directory)
        daemon, api, observe = start(state, secret)
        try:
            token = (state / "admin.token").read_text().strip()
            trio.run(tell, api, observe, token, secret)
            step("SIGTERM: a clean stop")
            daemon.send_signal(signal.SIGTERM)
            code = daemon.wait(PATIENCE_S)
            print(f"  exit {code}")
            check(code == 0, "it did not end well")
        finally:
            daemon.kill()
            daemon.wait()
    print("\nEverything was as said.")


if __name__ == "__main__":
    main()
