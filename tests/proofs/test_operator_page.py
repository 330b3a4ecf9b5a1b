"""The manual's page for operators, line by line, in an empty container with a real systemd. Needs root."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.proofs.systemd.page import commands

pytestmark = pytest.mark.prove
ROOT = Path(__file__).parents[2]
PAGE = "yoi_daemon/manual/operate.md"
TEXT = (ROOT / PAGE).read_text("utf-8")
SKIPPED = 77
RUN_TIMEOUT_S = 600


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    if os.geteuid() != 0:
        pytest.skip("booting systemd needs root")
    out = tmp_path_factory.mktemp("out")
    suite = os.environ.get("YOI_TEST_SUITE", "bookworm")
    # The container has no network: pip finds there what it would fetch, and holds it to its hashes.
    download = [
        "download",
        "--quiet",
        "--require-hashes",
        "--only-binary=:all:",
        "--dest",
        str(out),
    ]
    for_python = {"bookworm": "3.11", "trixie": "3.13"}[suite]
    download += ["--python-version", for_python, "--requirement", str(ROOT / "requirements.lock")]
    subprocess.run([sys.executable, "-m", "pip", *download], check=True, timeout=600)
    done = subprocess.run(
        [
            ROOT / "scripts" / "with-systemd",
            *("--suite", suite, "--out", out, "--timeout", str(RUN_TIMEOUT_S)),
            *("--env", "PIP_NO_INDEX=1", "--env", "PIP_FIND_LINKS=/out", "--"),
            *("python3", "/project/tests/proofs/systemd/page.py", f"/project/{PAGE}"),
        ],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        timeout=RUN_TIMEOUT_S + 900,
    )
    if done.returncode == SKIPPED:
        pytest.skip("scripts/with-systemd skipped")
    assert done.returncode == 0, done.stdout
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_every_command_works(told: list[dict[str, Any]]) -> None:
    assert [one["command"] for one in told] == commands(TEXT)
    assert [one for one in told if one["code"] != 0] == []


def test_they_say_what_they_are_to(told: list[dict[str, Any]]) -> None:
    said: dict[str, list[str]] = {}
    for one in told:
        said.setdefault(one["command"].partition("#")[0].strip(), []).append(one["said"])
    assert len(said["yoi-daemon status"]) == 3
    assert all(screen.startswith("well\n") for screen in said["yoi-daemon status"])
    (fields,) = said["journalctl YOI_PLUGIN=hello -o verbose"]
    assert "YOI_PLUGIN=hello" in fields
    assert "_SYSTEMD_UNIT=yoi-daemon.service" in fields


def test_the_page_is_read() -> None:
    found = commands(TEXT)
    assert len(found) > 25
    assert found[0] == "python3 -m venv /opt/yoi-daemon"
    assert not any("LoadCredential" in command for command in found)
