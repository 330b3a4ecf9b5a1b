from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def config(tmp_path: Path) -> Path:
    directory = tmp_path / "config"
    (directory / "plugins").mkdir(parents=True)
    return directory


def test_nothing_to_correct(run: Any, config: Path) -> None:
    assert run("plugin", "new", "gen", "--config", str(config)).code == 0
    outcome = run("check", "--import", "--config", str(config))
    assert outcome.code == 0
    assert "gen     good\n" in outcome.out
    assert "nothing to correct" in outcome.out


def test_everything_wrong_is_told_at_once(run: Any, config: Path) -> None:
    (config / "yoi-daemon.toml").write_text("[api]\nlisten = 3\nnone = 1\n")
    (config / "plugins" / "broken.py").write_text("def (")
    (config / "plugins" / "Bad.py").write_text("")
    outcome = run("check", "--config", str(config))
    assert outcome.code == 78
    assert "yoi-daemon.toml:2: api.listen: " in outcome.out
    assert "yoi-daemon.toml:3: api.none: " in outcome.out
    assert "Bad.py" in outcome.out
    assert "syntax_error: plugins/broken.py:1" in outcome.out
    assert "nothing to correct" not in outcome.out
    assert outcome.err == ""

    told = run("check", "--json", "--config", str(config))
    assert told.code == 78
    assert told.json["good"] is False
    assert {fault["key"] for fault in told.json["faults"]} >= {"api.listen", "api.none"}
    assert [plugin["code"] for plugin in told.json["plugins"]] == ["syntax_error"]


def test_a_module_is_run_only_where_that_is_asked_for(run: Any, config: Path) -> None:
    mark = config / "mark"
    (config / "plugins" / "gen.py").write_text(f"open({str(mark)!r}, 'x').close()\n")
    assert run("check", "--config", str(config)).code == 0
    assert not mark.exists()
    assert run("check", "--import", "--config", str(config)).code == 78
    assert mark.exists()
