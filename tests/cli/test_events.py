import json
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import trio

pytest.importorskip("trio_websocket")

import trio_websocket

from yoi_daemon.cli.follow import BACKOFF, Follow, line_writer, scope_path
from yoi_daemon.cli.options import Client
from yoi_daemon.client.endings import StreamRefused
from yoi_daemon.client.locate import Location
from yoi_daemon.model.errors import Unreachable

Script = Callable[[str, trio_websocket.WebSocketConnection], Awaitable[None]]
HELLO = {"type": "hello", "protocol": 1, "epoch": "e", "heartbeat_s": 15, "resume": "live"}


def event(seq: int, **fields: Any) -> dict[str, Any]:
    told = {"type": "event", "cursor": f"c{seq}", "seq": seq, "time": "t", "kind": "gen.tick"}
    return {**told, "data": {"n": seq}, **fields}


async def tell(socket: trio_websocket.WebSocketConnection, *messages: dict[str, Any]) -> None:
    for message in messages:
        await socket.send_message(json.dumps(message))


async def finish(cursor: str, socket: trio_websocket.WebSocketConnection) -> None:
    worker = {"runtime_id": "r", "worker_id": "w", "state": "stopped"}
    await tell(socket, HELLO, event(9), {"type": "end", "worker": worker})
    await socket.get_message()


async def follow(
    state: Path, scripts: list[Script], cursor: str = "latest", **options: Any
) -> list[str]:
    """Follows a daemon with one script for each connection; gives the cursors it was asked for.

    Each says so where no gap after it is taken.
    """
    asked: list[str] = []

    async def handle(request: trio_websocket.WebSocketRequest) -> None:
        query = parse_qs(urlsplit(request.path).query)
        cursor = query["cursor"][0]
        asked.append(cursor if query["on_gap"] == ["earliest"] else f"{cursor} and no gap")
        socket = await request.accept()
        try:
            await scripts[len(asked) - 1](cursor, socket)
        except trio_websocket.ConnectionClosed:
            return

    client = Client(config=None, state=str(state), as_json=False, url=None, token_file=None)
    follower = Follow(client, "/v1/events", (), line_writer(**{"as_json": False, **options}))
    async with trio.open_nursery() as nursery:
        server = await nursery.start(trio_websocket.serve_websocket, handle, "127.0.0.1", 0, None)
        told = {
            "pid": os.getpid(),
            "api": "http://127.0.0.1:9",
            "observe": f"ws://127.0.0.1:{server.port}",
        }
        (state / "daemon.json").write_text(json.dumps(told))
        (state / "admin.token").write_text("tok")
        try:
            with trio.fail_after(10):
                await follower.run(cursor)
        finally:
            nursery.cancel_scope.cancel()
    return asked


async def test_one_line_an_event(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def script(cursor: str, socket: trio_websocket.WebSocketConnection) -> None:
        named = event(2, plugin_id="gen", runtime_id="r", worker_id="w", correlation_id="x")
        odd = event(3, kind="gen.\x1b[2J", data="a\nb")
        await tell(socket, HELLO, event(1), named, odd)
        await finish(cursor, socket)

    await follow(tmp_path, [script])
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        't gen.tick {"n":1}',
        't gen.tick plugin=gen worker=r/w correlation=x {"n":2}',
        't gen.\\x1b[2J "a\\nb"',
        't gen.tick {"n":9}',
    ]
    assert err == "yoi-daemon: the end: worker r/w is stopped\n"


async def test_json_is_the_event(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    await follow(tmp_path, [finish], as_json=True)
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line) == {
        "cursor": "c9",
        "seq": 9,
        "time": "t",
        "kind": "gen.tick",
        "data": {"n": 9},
    }


async def test_a_cut_is_said_once_and_resumed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def cut(cursor: str, socket: trio_websocket.WebSocketConnection) -> None:
        await tell(socket, HELLO, event(1))
        await socket.aclose(1012)

    async def early(cursor: str, socket: trio_websocket.WebSocketConnection) -> None:
        await socket.aclose(1013)

    monkeypatch.setattr("yoi_daemon.cli.follow.BACKOFF", BACKOFF.__class__(first_s=0.001))
    asked = await follow(tmp_path, [cut, early, finish])
    assert asked == ["latest", "c1", "c1"]
    err = capsys.readouterr().err
    assert err.count("cut off") == 1
    assert err.count("connected again") == 1


async def cut_off(cursor: str, socket: trio_websocket.WebSocketConnection) -> None:
    await tell(socket, HELLO, event(1))
    await socket.aclose(1012)


def refuse(code: str, close: int, reason: str) -> Script:
    async def script(cursor: str, socket: trio_websocket.WebSocketConnection) -> None:
        await tell(socket, {"type": "error", "code": code, "reason": reason})
        await socket.aclose(close)

    return script


def gap(reason: str) -> Script:
    async def script(cursor: str, socket: trio_websocket.WebSocketConnection) -> None:
        lost = {"type": "gap", "from": cursor, "to": "c8", "cursor": "c8", "reason": reason}
        await tell(socket, {**HELLO, "resume": "earliest"}, lost)
        await finish(cursor, socket)

    return script


EXPIRED = refuse("cursor_expired", 4410, "evicted")
FOREIGN = refuse("cursor_unknown", 4422, "foreign_epoch")


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (gap("epoch_changed"), "events before its restart are gone"),
        (gap("evicted"), "those after c1 up to c8 are lost"),
    ],
)
async def test_what_is_gone_is_taken_as_a_gap_and_said(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    script: Script,
    said: str,
) -> None:
    monkeypatch.setattr("yoi_daemon.cli.follow.BACKOFF", BACKOFF.__class__(first_s=0.001))
    assert await follow(tmp_path, [cut_off, script]) == ["latest", "c1"]
    out, err = capsys.readouterr()
    assert [line for line in err.splitlines() if said in line] != []
    assert len(out.splitlines()) == 2


async def test_a_log_that_does_not_know_the_position_is_read_from_its_earliest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("yoi_daemon.cli.follow.BACKOFF", BACKOFF.__class__(first_s=0.001))
    assert await follow(tmp_path, [cut_off, FOREIGN, finish]) == ["latest", "c1", "earliest"]
    assert "events before its restart are gone" in capsys.readouterr().err


async def test_a_position_that_a_person_gave_is_theirs_until_it_was_good(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("yoi_daemon.cli.follow.BACKOFF", BACKOFF.__class__(first_s=0.001))
    for script in (EXPIRED, FOREIGN):
        with pytest.RaisesGroup(StreamRefused):
            await follow(tmp_path, [script], cursor="old")
    asked = await follow(tmp_path, [cut_off, EXPIRED, gap("evicted")], cursor="c0")
    assert asked == ["c0 and no gap", "c1 and no gap", "c1"]
    assert "those after c1 up to c8 are lost" in capsys.readouterr().err


def test_scopes() -> None:
    assert scope_path(None, None) == "/v1/events"
    assert scope_path(None, "gen") == "/v1/plugins/gen/events"


def test_a_daemon_without_a_stream_says_so(run: Any, daemon: Any) -> None:
    daemon.answers["GET /api/status"] = (200, {"observe": {"enabled": False, "port": None}})
    outcome = run("events", "--state", str(daemon.state))
    assert outcome.code == 69
    assert "offers no event stream" in outcome.err
    daemon.answers["GET /api/status"] = (200, {"observe": {"enabled": True, "port": None}})
    outcome = run("events", "--state", str(daemon.state))
    assert outcome.code == 69
    assert "is on a unix socket" in outcome.err


def test_ctrl_c_ends_it_quietly(run: Any, daemon: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: Client) -> Location:
        signal.raise_signal(signal.SIGINT)
        raise Unreachable("the signal did not arrive")

    monkeypatch.setattr(Client, "location", interrupted)
    assert run("events") == (0, "", "")
    assert run("status").code == 130
