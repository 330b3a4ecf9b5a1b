import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

PLUGIN = {
    "plugin_id": "gen",
    "state": "failed",
    "since": "2026-01-01T00:00:00Z",
    "reason": {"code": "crashed", "message": "boom\x1b[2J"},
    "restarts": 2,
    "queue_depth": 1,
    "queue_capacity": 256,
    "later": "field",
}


def test_the_list(run: Any, daemon: Any) -> None:
    daemon.answers["GET /api/plugins"] = (200, {"items": [PLUGIN], "next": "n1"})
    diagnostics = [{"severity": "warning", "message": "one is missing"}]
    daemon.answers["GET /api/plugins?after=n1"] = (
        200,
        {"items": [{"plugin_id": "last"}], "diagnostics": diagnostics},
    )
    outcome = run("plugin", "list", "--state", str(daemon.state))
    assert outcome.code == 0
    assert re.search(r"gen +failed .* 1/256 +2 +crashed: boom\\x1b\[2J\n", outcome.out)
    assert "last" in outcome.out
    assert outcome.err == "yoi-daemon: warning: one is missing\n"

    outcome = run("plugin", "list", "--json", "--state", str(daemon.state))
    assert outcome.json == {
        "items": [PLUGIN, {"plugin_id": "last"}],
        "diagnostics": diagnostics,
    }


@pytest.fixture
def shown(run: Any, daemon: Any) -> Any:
    def shown(**fields: Any) -> dict[str, str]:
        daemon.answers["GET /api/plugins/gen"] = (200, {**PLUGIN, **fields})
        outcome = run("plugin", "show", "gen", "--state", str(daemon.state))
        assert outcome.code == 0
        lines = (line.partition(" ") for line in outcome.out.splitlines())
        return {name: value.strip() for name, _, value in lines}

    return shown


def test_one_plugin(run: Any, daemon: Any, shown: Any) -> None:
    told = shown(
        retry_at="soon",
        critical=True,
        isolation="inline",
        queue_bytes=512,
        queue_bytes_capacity=4_194_304,
        oldest_waiting_s=61.5,
        counters={"accepted": 3, "handled": 2},
        dispatch={"count": 2, "p50_ms": 1.5, "p99_ms": 2, "max_ms": 2.25},
        last_error={
            "code": "handler_failed",
            "message": "ValueError: no",
            "time": "t",
            "where": "plugins/gen.py:3",
            "event_id": "evt_1",
        },
        tools=["say", "do"],
        ingresses=[
            {"name": "push", "verify": "github", "every_s": None},
            {"name": "tick", "verify": None, "every_s": 300},
            {"name": "plain", "verify": None, "every_s": None},
        ],
        detail={"beats": 1},
    )
    assert told == {
        "plugin_id": "gen",
        "state": "failed",
        "since": "2026-01-01T00:00:00Z",
        "reason": "crashed: boom\\x1b[2J",
        "restarts": "2",
        "retry_at": "soon",
        "critical": "yes",
        "isolation": "inline",
        "queue": "1/256 events, 512 B of 4.0 MiB",
        "oldest_waiting": "1 min 1 s",
        "last_error": "handler_failed: ValueError: no, at plugins/gen.py:3, event evt_1, t",
        "dispatch": ("half within 1.5 ms, 99 % within 2 ms, longest 2.25 ms (of the latest 2)"),
        "counters": "accepted 3, handled 2",
        "ingresses": "push (webhook, github), tick (every 5 min), plain",
        "tools": "say, do",
        "detail": '{"beats":1}',
        "later": "field",
    }
    daemon.answers["GET /api/plugins/gen"] = (200, PLUGIN)
    assert run("plugin", "show", "gen", "--json", "--state", str(daemon.state)).json == PLUGIN


@pytest.mark.parametrize(
    ("detail", "words"),
    [
        (None, "-"),
        (
            {
                "diagnostic": {
                    "code": "status_timeout",
                    "message": "status did not return within 1 s",
                    "where": None,
                }
            },
            "none (status_timeout: status did not return within 1 s)",
        ),
        (
            {"diagnostic": {"code": "status_failed", "message": "x", "where": "plugins/gen.py:3"}},
            "none (status_failed: x, at plugins/gen.py:3)",
        ),
        ({"diagnostic": "the plugin's own"}, '{"diagnostic":"the plugin\'s own"}'),
        (
            {"diagnostic": {"code": "x"}, "more": 1},
            '{"diagnostic":{"code":"x"},"more":1}',
        ),
    ],
)
def test_a_status_that_gave_no_detail_is_told_in_words(shown: Any, detail: Any, words: str) -> None:
    assert shown(detail=detail)["detail"] == words


def test_a_module_that_was_loaded_needs_no_reason(run: Any, daemon: Any) -> None:
    items = [{"plugin_id": "gen", "state": "ready", "reason": {"code": "loaded", "message": "x"}}]
    daemon.answers["GET /api/plugins"] = (200, {"items": items})
    assert "loaded" not in run("plugin", "list", "--state", str(daemon.state)).out


def test_a_new_plugin_and_its_test(run: Any, tmp_path: Path) -> None:
    outcome = run("plugin", "new", "hello_2", "--config", str(tmp_path))
    assert outcome.code == 0
    module, test = tmp_path / "plugins" / "hello_2.py", tmp_path / "tests" / "test_hello_2.py"
    assert str(module) in outcome.out
    assert str(test) in outcome.out
    for file in (module, test):
        text = file.read_text()
        assert "NAME" not in text
        compile(text, str(file), "exec")

    spec = importlib.util.spec_from_file_location("test_hello_2", test)
    assert spec is not None
    assert spec.loader is not None
    written = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(written)
    written.test_hello_is_answered_with_a_greeting()

    module.write_text(module.read_text().replace("ctx.emit", "print"))
    with pytest.raises((AssertionError, TypeError)):  # the written test can fail
        written.test_hello_is_answered_with_a_greeting()


def test_json_names_the_files(run: Any, tmp_path: Path) -> None:
    outcome = run("plugin", "new", "gen", "--json", "--config", str(tmp_path))
    assert outcome.json == {
        "plugin_id": "gen",
        "module": str(tmp_path / "plugins" / "gen.py"),
        "test": str(tmp_path / "tests" / "test_gen.py"),
    }


@pytest.mark.parametrize(
    "there", ["plugins/gen.py", "plugins/gen/__init__.py", "tests/test_gen.py"]
)
def test_nothing_is_overwritten(run: Any, tmp_path: Path, there: str) -> None:
    file = tmp_path / there
    file.parent.mkdir(parents=True)
    file.write_text("mine")
    outcome = run("plugin", "new", "gen", "--config", str(tmp_path))
    assert outcome.code == 1
    assert "is there already" in outcome.err
    assert file.read_text() == "mine"
    assert [f for f in tmp_path.rglob("*") if f.is_file()] == [file]


@pytest.mark.parametrize(
    "name",
    ["", "Gen", "1st", "_x", "a__b", "a-b", "../x", "a/b", "a" * 33, "worker", "log", "ü", "a\n"],
)
def test_bad_names_are_refused_with_the_rule(run: Any, tmp_path: Path, name: str) -> None:
    outcome = run("plugin", "new", "--config", str(tmp_path), "--", name)
    assert outcome.code == 2
    assert "a lower-case letter, then up to 31 of a-z" in outcome.err
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_may_not_be_written(run: Any, tmp_path: Path) -> None:
    (tmp_path / "plugins").write_text("a file")
    outcome = run("plugin", "new", "gen", "--config", str(tmp_path))
    assert outcome.code == 1
    assert "cannot be written" in outcome.err
