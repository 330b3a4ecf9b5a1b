"""The stream across restarts of the real daemon, followed by a client that is not ours and by our command."""

import json
import signal
import subprocess
import sys

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

pytest.importorskip("trio_websocket")

TICKER = """
from yoi_daemon.sdk import Context, IngressEvent, Plugin
plugin = Plugin("gen")

@plugin.ingress("tick")
async def tick(ctx: Context, event: IngressEvent) -> None:
    await ctx.emit("tick", event.payload)
"""


@pytest.fixture
def config(config):
    (config / "plugins" / "gen.py").write_text(TICKER)
    return config


def subscribe(daemon, query: str, path: str = "/v1/events"):
    return connect(
        f"{daemon.observe}{path}?{query}",
        additional_headers={"Authorization": f"Bearer {daemon.token}"},
        # It stops reading while messages wait, and so does not see the answer to its Close.
        close_timeout=0.1,
    )


def read(stream, count: int) -> list[dict]:
    return [json.loads(stream.recv(timeout=10)) for _ in range(count)]


def read_to_live(stream) -> list[dict]:
    messages = read(stream, 1)
    while messages[-1].get("reason") != "live":
        messages += read(stream, 1)
    return messages


def test_cut_and_resumed_is_the_whole_log_for_a_client_that_is_not_ours(start_daemon, config):
    daemon = start_daemon(config)
    for number in range(15):
        daemon.request("POST", "/api/plugins/gen/ingress/tick", {"number": number})
    with subscribe(daemon, "cursor=earliest&kinds=gen.") as stream:
        messages = read(stream, 1 + 15 + 1)  # some of them perhaps behind `live`
    whole = [m["cursor"] for m in messages if m["type"] == "event"]
    assert len(whole) == 15
    for cut_after in (1, 8, 14):
        with subscribe(daemon, "cursor=earliest&kinds=gen.") as stream:
            first = [m["cursor"] for m in read(stream, 1 + cut_after)[1:]]
        with subscribe(daemon, f"cursor={first[-1]}&kinds=gen.") as stream:
            rest = [m["cursor"] for m in read_to_live(stream) if m["type"] == "event"]
        assert first + rest == whole


MEMORY = '[store]\nkind = "memory"\n'


def test_a_cursor_of_before_the_restart_resumes_exactly(start_daemon, config):
    daemon = start_daemon(config)
    daemon.request("POST", "/api/plugins/gen/ingress/tick", {"number": 0})
    with subscribe(daemon, "cursor=earliest") as stream:
        before = [m for m in read_to_live(stream) if m["type"] == "event"]
    assert daemon.stop() == 0
    daemon = start_daemon(config)
    with subscribe(daemon, f"cursor={before[1]['cursor']}") as stream:
        hello, *after = read_to_live(stream)
    assert hello["resume"] == "exact"
    after = [m for m in after if m["type"] == "event"]
    assert after[: len(before) - 2] == before[2:]
    numbers = [m["seq"] for m in after]
    assert numbers == list(range(3, 3 + len(numbers)))
    assert numbers[-1] > before[-1]["seq"]


def test_a_cursor_of_another_log_is_expired_and_not_unknown(start_daemon, config):
    (config / "yoi-daemon.toml").write_text(MEMORY)
    daemon = start_daemon(config)
    with subscribe(daemon, "cursor=earliest") as stream:
        cursor = read_to_live(stream)[-1]["cursor"]
    assert daemon.stop() == 0
    daemon = start_daemon(config)
    with subscribe(daemon, f"cursor={cursor}") as stream:
        (error,) = read(stream, 1)
        assert (error["code"], error["reason"]) == ("cursor_expired", "epoch_changed")
        with pytest.raises(ConnectionClosed):
            stream.recv(timeout=10)
        assert stream.close_code == 4410
    with subscribe(daemon, f"cursor={cursor}&on_gap=earliest") as stream:
        hello, gap, first = read(stream, 3)
        assert (hello["resume"], gap["type"], first["seq"]) == ("earliest", "gap", 1)
        assert (gap["from"], gap["reason"]) == (cursor, "epoch_changed")


@pytest.mark.parametrize("store", ["sqlite", "memory"])
def test_the_command_follows_across_a_restart(start_daemon, config, tmp_path, store):
    (config / "yoi-daemon.toml").write_text(MEMORY if store == "memory" else "")
    daemon = start_daemon(config)
    command = [sys.executable, "-m", "yoi_daemon", "events", "--json", "--from", "earliest"]
    with subprocess.Popen(
        [*command, "--kind", "gen.", "--state", daemon.state],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as following:
        assert following.stdout
        try:
            for run in range(2):
                daemon.request("POST", "/api/plugins/gen/ingress/tick", {"run": run})
                assert json.loads(following.stdout.readline())["data"] == {"run": run}
                if not run:
                    assert daemon.stop() == 0
                    daemon = start_daemon(config)
        finally:
            following.terminate()
        assert following.stderr
        told = following.stderr.read()
    assert ("the daemon has begun a new log" in told) == (store == "memory")


def test_the_command_finds_the_stream_by_the_apis_url(start_daemon, config):
    daemon = start_daemon(config)
    where = ["--url", daemon.api, "--token-file", daemon.state / "admin.token"]
    command = [sys.executable, "-m", "yoi_daemon", "events", "--json", "--from", "earliest"]
    with subprocess.Popen([*command, *where], stdout=subprocess.PIPE) as following:
        assert following.stdout
        try:
            assert json.loads(following.stdout.readline())["seq"] == 1
        finally:
            following.terminate()


WORKERS = "/api/runtimes/backend-internal/workers"


def make_worker(daemon) -> str:
    wanted = {"profile": "builtin:echo", "label": "", "input": "hello"}
    status, receipt = daemon.request("POST", WORKERS, wanted)
    assert status == 201, receipt
    return receipt["worker"]["worker_id"]


def stop_worker(daemon, worker_id: str) -> None:
    status, receipt = daemon.request("POST", f"{WORKERS}/{worker_id}/stop", {})
    assert (status, receipt["worker"]["state"]) == (200, "stopped")


def read_to_the_close(stream) -> tuple[list[dict], int]:
    messages = []
    try:
        while True:
            messages += read(stream, 1)
    except ConnectionClosed:
        return messages, stream.close_code


def test_a_workers_stream_ends_when_it_is_stopped_and_everything_was_delivered(
    start_daemon, config
):
    daemon = start_daemon(config)
    worker_id = make_worker(daemon)
    path = f"/v1/workers/{worker_id}/events"
    with (
        subscribe(daemon, "cursor=earliest", path) as live,
        subscribe(daemon, "cursor=latest") as everything,
    ):
        before = read_to_live(live)
        stop_worker(daemon, worker_id)
        after, code = read_to_the_close(live)
        assert code == 1000
        # Only its own stream is finished.
        read_to_live(everything)
        seen = read(everything, 1)
        while seen[-1]["cursor"] != after[-2]["cursor"]:
            seen += read(everything, 1)
        assert (seen[-1]["kind"], seen[-1]["data"]["state"]) == ("worker.state", "stopped")
    messages = before + after
    end = messages[-1]
    assert (end["type"], end["reason"]) == ("end", "worker_gone")
    assert (end["worker"]["worker_id"], end["worker"]["state"]) == (worker_id, "stopped")
    whole = [message for message in messages if message["type"] == "event"]
    assert [event["worker_seq"] for event in whole] == [*range(1, len(whole) + 1)]
    assert whole[-1]["data"]["state"] == "stopped"

    # Any cursor it told resumes: the exact rest, and then `end`.
    for told in (whole[0], whole[len(whole) // 2], whole[-1], end):
        with subscribe(daemon, f"cursor={told['cursor']}", path) as stream:
            again, code = read_to_the_close(stream)
        rest = [message for message in again if message["type"] == "event"]
        assert rest == whole[whole.index(told) + 1 :] if told is not end else not rest
        assert (again[-1]["type"], again[-1]["worker"], code) == ("end", end["worker"], 1000)

    # Only where nothing can come is it refused, with the final state.
    with subscribe(daemon, "cursor=latest", path) as stream:
        (refused,), code = read_to_the_close(stream)
    assert (refused["code"], refused["worker"], code) == ("worker_gone", end["worker"], 4404)


def test_a_cut_is_not_the_end(start_daemon, config):
    """The control of the above: a daemon that stops says where to go on, and never `end`."""
    daemon = start_daemon(config)
    worker_id = make_worker(daemon)
    with subscribe(daemon, "cursor=earliest", f"/v1/workers/{worker_id}/events") as stream:
        read_to_live(stream)
        daemon.signal(signal.SIGTERM)
        messages, code = read_to_the_close(stream)
    assert code == 1012
    assert [m["type"] for m in messages if m["type"] != "event"][-2:] == ["bookmark", "error"]
    assert daemon.wait() == 0


def test_the_command_ends_with_its_worker(start_daemon, config):
    daemon = start_daemon(config)
    worker_id = make_worker(daemon)
    command = [sys.executable, "-m", "yoi_daemon", "events", "--from", "earliest"]
    with subprocess.Popen(
        [*command, "--worker", worker_id, "--state", daemon.state],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as following:
        assert following.stdout
        assert "worker.created" in following.stdout.readline()
        stop_worker(daemon, worker_id)
        out, err = following.communicate(timeout=20)
    assert (following.returncode, err) == (
        0,
        f"yoi-daemon: the end: worker backend-internal/{worker_id} is stopped\n",
    )
    assert '"state":"stopped"' in out.splitlines()[-1]


def test_a_protocol_violation_is_closed_as_the_rfc_says(start_daemon, config):
    daemon = start_daemon(config)
    for frame, code in (
        (b"\x81\x01a", 1002),  # not masked
        (b"\x83\x80\0\0\0\0", 1002),  # an opcode that is none
        (b"\xc1\x80\0\0\0\0", 1002),  # compressed, which was not agreed
        (b"\x81\x82\0\0\0\0\xff\xff", 1007),  # not UTF-8
        (b"\x81\xfe\x20\x00\0\0\0\0" + b"a" * 0x2000, 1009),
    ):
        with subscribe(daemon, "cursor=latest") as stream:
            read(stream, 2)
            stream.socket.sendall(frame)
            with pytest.raises(ConnectionClosed):
                stream.recv(timeout=10)
            assert stream.close_code == code, frame
