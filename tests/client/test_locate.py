import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from yoi_daemon.client.locate import locate, locate_by_url, process_is_alive
from yoi_daemon.model.errors import NotAllowed, Unreachable

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(name: str, token: str | None = "tok", **fields: object) -> Path:
        directory = tmp_path / name
        directory.mkdir(parents=True)
        daemon = {"pid": os.getpid(), "api": f"http://{name}:1", "observe": f"ws://{name}:2"}
        (directory / "daemon.json").write_text(json.dumps({**daemon, **fields}))
        if token is not None:
            (directory / "admin.token").write_text(token + "\n")
        return directory

    return write


def find(tmp_path: Path, state: str | None = None, **environ: str) -> str:
    return locate(
        state,
        {"HOME": str(tmp_path / "home"), **environ},
        runtime_directory=tmp_path / "run",
        system_state_directory=tmp_path / "var",
    ).api


def test_the_flag_then_the_environment_then_run_then_xdg(tmp_path: Path, write: Write) -> None:
    flag, environment = str(write("flag")), str(write("environment"))
    write("run")
    write("xdg/yoi-daemon", api="http://xdg:1")
    xdg = {"XDG_STATE_HOME": str(tmp_path / "xdg")}

    assert find(tmp_path, flag, STATE_DIRECTORY=environment, **xdg) == "http://flag:1"
    assert find(tmp_path, STATE_DIRECTORY=environment, **xdg) == "http://environment:1"
    assert find(tmp_path, STATE_DIRECTORY=f"{environment}:/other", **xdg) == "http://environment:1"
    assert find(tmp_path, **xdg) == "http://run:1"
    (tmp_path / "run" / "daemon.json").unlink()
    assert find(tmp_path, **xdg) == "http://xdg:1"


def test_the_flag_is_not_passed_over_when_no_daemon_runs_there(
    tmp_path: Path, write: Write
) -> None:
    write("run")
    with pytest.raises(Unreachable, match="yoi-daemon run") as caught:
        find(tmp_path, str(tmp_path / "empty"))
    assert "/run" not in str(caught.value).split("start one")[0].replace(str(tmp_path), "")


def test_no_daemon_names_every_place_looked_at(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match=r"no daemon is running") as caught:
        find(tmp_path, STATE_DIRECTORY=str(tmp_path / "a"))
    for place in (tmp_path / "a", tmp_path / "run", tmp_path / "home/.local/state/yoi-daemon"):
        assert str(place) in str(caught.value)


def test_without_home_the_other_places_are_still_looked_at(tmp_path: Path, write: Write) -> None:
    write("run")
    location = locate(None, {}, runtime_directory=tmp_path / "run")
    assert location.api == "http://run:1"


def test_a_stale_file_is_an_error_and_not_a_reason_to_look_on(tmp_path: Path, write: Write) -> None:
    write("run", pid=4_000_000)
    write("xdg/yoi-daemon")
    with pytest.raises(Unreachable, match="process 4000000, which is gone"):
        find(tmp_path, XDG_STATE_HOME=str(tmp_path / "xdg"))


def test_the_token_of_the_system_service_is_in_its_state_directory(
    tmp_path: Path, write: Write
) -> None:
    write("run", token=None)
    (tmp_path / "var").mkdir()
    (tmp_path / "var" / "admin.token").write_text("system")
    location = locate(
        None,
        {},
        runtime_directory=tmp_path / "run",
        system_state_directory=tmp_path / "var",
    )
    assert location.token == "system"


@pytest.mark.parametrize("token", [None, "", "two words", "snö", "a\nb"])
def test_a_token_file_without_a_token_is_not_allowed(write: Write, token: str | None) -> None:
    with pytest.raises(NotAllowed, match=r"admin\.token"):
        locate(str(write("state", token=token)), {})


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_an_unreadable_token_is_not_allowed(write: Write) -> None:
    state = write("state")
    (state / "admin.token").chmod(0)
    with pytest.raises(NotAllowed, match="as the user the daemon runs as"):
        locate(str(state), {})


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": 1}', '{"pid": 1, "api": []}'])
def test_a_damaged_file_says_what_to_do(tmp_path: Path, content: str) -> None:
    (tmp_path / "daemon.json").write_text(content)
    with pytest.raises(Unreachable, match="restart the daemon"):
        locate(str(tmp_path), {})


@pytest.mark.parametrize(
    ("api", "reached"),
    [
        ("http://0.0.0.0:7420", "http://127.0.0.1:7420"),
        ("http://[::]:7420", "http://[::1]:7420"),
        ("http://10.0.0.1:7420/", "http://10.0.0.1:7420"),
        (["http://127.0.0.1:1", "unix:/x"], "http://127.0.0.1:1"),
        ("unix:/run/api.sock", "unix:/run/api.sock"),
    ],
)
def test_a_listener_on_every_address_is_reached_by_loopback(
    write: Write, api: object, reached: str
) -> None:
    assert locate(str(write("state", api=api, later="field")), {}).api == reached


def test_the_token_is_not_shown(write: Write) -> None:
    location = locate(str(write("state", token="hush")), {})
    assert location.token == "hush"
    assert "hush" not in repr(location)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "127.0.0.1:1",
        "ftp://h:1",
        "http://",
        "unix:",
        "http://h:1/api",
        "http://u@h:1",
        "http://h:x",
    ],
)
def test_an_address_of_another_form_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        locate_by_url(url, str(tmp_path / "token"))


def test_a_named_daemon_takes_the_token_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("t\n")
    location = locate_by_url("http://127.0.0.1:1/", str(tmp_path / "token"))
    assert (location.api, location.token, location.observe) == ("http://127.0.0.1:1", "t", None)
    with pytest.raises(NotAllowed, match="there is no token in"):
        locate_by_url("http://127.0.0.1:1", str(tmp_path / "none"))


def test_which_processes_count_as_alive() -> None:
    assert process_is_alive(os.getpid())
    assert process_is_alive(1)  # another user's, unless this is root
    assert not process_is_alive(0)  # would be our own group
    assert not process_is_alive(-1)
    assert not process_is_alive(10**30)


def test_a_killed_process_that_nobody_reaped_is_not_alive() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        # Waits for its end and leaves it a zombie.
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert not process_is_alive(child.pid)
