import io
import sys

import pytest
import trio

from yoi_daemon.cli.requests import PATIENCE_S, Progress, with_progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def open_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Called in the test itself: between a fixture and its test pytest sets the streams anew."""
    monkeypatch.setenv("TERM", "xterm")
    for name in ("NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    return terminal


async def wait(seconds: float, sentence: str) -> str:
    progress = Progress(sentence)

    async def work() -> str:
        await trio.sleep(seconds)
        assert not isinstance(sys.stdout, Terminal)
        sys.stdout.write("result\n")
        return "done"

    return await with_progress(work, progress)


async def test_a_person_who_waits_long_is_told_for_what(
    autojump_clock: object,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    terminal = open_terminal(monkeypatch)
    assert await wait(PATIENCE_S + 1, "gen [red] is starting\x1b[2J") == "done"
    assert "gen [red] is starting\\x1b[2J" in terminal.getvalue()
    # What the command writes goes where it was sent, also while the terminal shows progress.
    assert capsys.readouterr().out == "result\n"


async def test_one_who_does_not_is_not(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = open_terminal(monkeypatch)
    assert await wait(PATIENCE_S - 0.1, "gen is starting") == "done"
    assert terminal.getvalue() == ""
    plain = io.StringIO()
    monkeypatch.setattr(sys, "stderr", plain)
    assert await wait(PATIENCE_S + 1, "gen is starting") == "done"
    assert plain.getvalue() == ""


async def test_an_error_comes_out_as_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    open_terminal(monkeypatch)

    async def work() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await with_progress(work, Progress())
