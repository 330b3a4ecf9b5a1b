"""Autobahn's fuzzing client against the guarded server: framing, pings, opcodes, fragments, UTF-8, closing.

It runs on Python 2.7 alone. Where there is none, or `--full` is not asked for, this says so and is skipped.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("trio_websocket")
pytestmark = pytest.mark.prove

REPO = Path(__file__).parents[3]
ECHO_SERVER = Path(__file__).with_name("echo_server.py")
TESTSUITE = "autobahntestsuite==25.10.1"
VIRTUALENV = "virtualenv==16.7.12"
CASES = ["1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "10.*"]
PASSED = {"OK", "NON-STRICT", "INFORMATIONAL"}
"""Not strict: the text is refused only when the message is whole. Informational: the RFC leaves it open."""

INSTALL_S, RUN_S = 300, 600


def find_python2() -> str | None:
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    for candidate in ["python2.7", *sorted(map(str, pyenv.glob("versions/2.7.*/bin/python")))]:
        program = "import sys; sys.exit(sys.version_info[:2] != (2, 7))"
        found = shutil.which(candidate)
        if found and subprocess.run([found, "-c", program], check=False).returncode == 0:
            return found
    return None


@pytest.fixture(scope="module")
def wstest(request, tmp_path_factory) -> str:
    """The fuzzing client, installed from the registry into an environment of its own."""
    if not request.config.getoption("--full"):
        pytest.skip("Autobahn was not run: it takes a minute, with --full")
    python = find_python2()
    if python is None:
        pytest.skip("Autobahn was not run: it needs Python 2.7, and there is none")
    directory = tmp_path_factory.mktemp("autobahn")
    pip = ["-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    environ = os.environ | {"PYTHONPATH": str(directory / "tools"), "PYTHONWARNINGS": "ignore"}
    for command in (
        [python, *pip, "--target", directory / "tools", VIRTUALENV],
        [python, "-m", "virtualenv", "--quiet", directory / "env"],
        [directory / "env" / "bin" / "python", *pip, TESTSUITE],
    ):
        done = subprocess.run(
            command, env=environ, capture_output=True, text=True, timeout=INSTALL_S, check=False
        )
        assert done.returncode == 0, done.stderr
    return str(directory / "env" / "bin" / "wstest")


@pytest.fixture
def port(request) -> Iterator[int]:
    command = [sys.executable, ECHO_SERVER, *request.param]
    environ = os.environ | {"PYTHONPATH": str(REPO)}
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        yield int(server.stdout.readline())
        assert server.poll() is None
        server.kill()


def run_cases(wstest: str, port: int, directory: Path, cases: list[str]) -> dict[str, dict]:
    """Each case's verdict."""
    wanted = {
        "outdir": str(directory / "reports"),
        "servers": [{"agent": "yoi", "url": f"ws://127.0.0.1:{port}"}],
        "cases": cases,
        "exclude-cases": [],
        "exclude-agent-cases": {},
    }
    (directory / "spec.json").write_text(json.dumps(wanted))
    command = [wstest, "-m", "fuzzingclient", "-s", str(directory / "spec.json")]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        command,
        env=environ,
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=RUN_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return json.loads((directory / "reports" / "index.json").read_text())["yoi"]


def failed(verdicts: dict[str, dict]) -> dict[str, tuple[str, str]]:
    told = {case: (one["behavior"], one["behaviorClose"]) for case, one in verdicts.items()}
    return {case: both for case, both in told.items() if not PASSED.issuperset(both)}


@pytest.mark.parametrize("port", [[]], indirect=True, ids=["guarded"])
def test_the_fuzzing_client_finds_no_failed_case(wstest, port, tmp_path, capsys):
    verdicts = run_cases(wstest, port, tmp_path, CASES)
    with capsys.disabled():
        kinds = [one["behavior"] for one in verdicts.values()]
        print(f"\nAutobahn: { ({kind: kinds.count(kind) for kind in set(kinds)}) }")
    assert len(verdicts) >= 240
    assert failed(verdicts) == {}


@pytest.mark.parametrize("port", [["lax"]], indirect=True, ids=["lax"])
def test_control_a_server_that_takes_any_bytes_for_text_fails(wstest, port, tmp_path):
    assert failed(run_cases(wstest, port, tmp_path, ["6.3.*"]))
