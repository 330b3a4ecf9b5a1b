import subprocess
import sys
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


@pytest.mark.parametrize("command", ["check", "run"])
def test_a_mistyped_directory_is_not_an_empty_one(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    typo = tmp_path / "confg"
    outcome = run(command, "--config", str(typo), "--state", str(tmp_path / "state"))
    assert outcome.code == 78
    assert f"{typo}: there is no such directory" in outcome.out + outcome.err
    monkeypatch.setenv("CONFIGURATION_DIRECTORY", str(typo))
    assert run(command, "--state", str(tmp_path / "state")).code == 78
    assert not (tmp_path / "state").exists()


def test_a_warning_is_told_and_is_no_fault(run: Any, config: Path) -> None:
    (config / "yoi-daemon.toml").write_text("")
    (config / "yoi-daemon.toml").chmod(0o664)
    outcome = run("check", "--config", str(config))
    assert outcome.code == 0
    assert "warning: " in outcome.out
    assert "chmod g-w" in outcome.out


def test_an_import_that_lets_no_thread_run_ends_with_its_stack(config: Path) -> None:
    (config / "plugins" / "endless.py").write_text(
        'import re\nre.match("(a+)+$", "a" * 64 + "b")\n'
    )
    program = (
        "import sys\nfrom pathlib import Path\nfrom yoi_daemon.daemon import checking\n"
        "from yoi_daemon.model.directories import Directories\n"
        "checking.LAST_RESORT_S = 0.5\nroot = Path(sys.argv[1])\n"
        "checking.check(Directories(root, root, root), {}, import_modules=True, import_timeout_s=0.5)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, config],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1
    assert 'endless.py", line 2' in ended.stderr
