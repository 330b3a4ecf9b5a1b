"""The package installs from a clone into an empty environment, with the extra and without it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
pytestmark = pytest.mark.prove


def environment(directory: Path, what: str) -> Path:
    """A virtual environment with just `what` installed; gives its bin directory."""
    subprocess.run([sys.executable, "-m", "venv", directory], check=True)
    pip = [directory / "bin" / "python", "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "install", what], check=True, cwd=REPO)
    return directory / "bin"


def has_stream(bin_directory: Path) -> bool:
    asked = (
        "import importlib.util, sys; sys.exit(importlib.util.find_spec('trio_websocket') is None)"
    )
    return subprocess.run([bin_directory / "python", "-c", asked], check=False).returncode == 0


def run_daemon(bin_directory: Path, directory: Path) -> str:
    """Starts and stops the installed program; gives its ready line."""
    (directory / "config").mkdir(parents=True)
    environ = os.environ | {
        "YOI__API__LISTEN": "127.0.0.1:0",
        "YOI__OBSERVE__LISTEN": "127.0.0.1:0",
    }
    command = [bin_directory / "yoi-daemon", "run", "--config", directory / "config"]
    with subprocess.Popen(
        [*command, "--state", directory / "state"],
        env=environ,
        cwd=directory,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        line = process.stdout.readline()
        process.terminate()
        assert process.wait(10) == 0
    return line


def test_the_core_installs_without_the_stream(tmp_path):
    core = environment(tmp_path / "core", ".")
    assert not has_stream(core)
    assert run_daemon(core, tmp_path / "one").rstrip().endswith("observe=off")
    told = subprocess.run(
        [core / "yoi-daemon", "events", "--state", tmp_path / "one" / "state"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode in (69, 78)
    assert "Traceback" not in told.stderr


def test_the_extra_adds_it(tmp_path):
    observe = environment(tmp_path / "observe", ".[observe]")
    assert has_stream(observe)
    assert "observe=ws://127.0.0.1:" in run_daemon(observe, tmp_path / "two")
