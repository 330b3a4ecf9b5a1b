"""The previous version's daemon, with work queued, is replaced by this one under load, on the same state."""

import ast
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.e2e.conftest import DaemonProcess
from tests.proofs.test_kill import (
    Follower,
    House,
    check_books,
    check_streams,
    end,
    settle,
)
from yoi_daemon.store.sqlite.schema import VERSION

pytestmark = pytest.mark.prove
ROOT = Path(__file__).parents[2]
PACKAGE = "yoi_daemon"
PROGRAM = (sys.executable, "-m", PACKAGE)
QUEUED = 120
"""Events put on the slow queue just before the end; at 20 ms each it does not get through them."""
ANSWERS = 150
"""How many answers the clients have before the replacement, and how many more after it."""


def git(*arguments: str) -> bytes:
    return subprocess.run(
        ["git", *arguments], cwd=ROOT, check=True, capture_output=True, timeout=60
    ).stdout


def commits() -> list[str]:
    """The commits whose package is another than this tree's, newest first."""
    try:
        revisions = git("rev-list", "HEAD").decode().split()
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no git history here: there is no previous version to upgrade from")
    different = ["git", "diff", "--quiet", "HEAD", "--", PACKAGE]
    for number, revision in enumerate(revisions):
        different[3] = revision
        if subprocess.run(different, cwd=ROOT, check=False, timeout=60).returncode == 1:
            return revisions[number:]
    pytest.skip("the clone has no commit with another version of the package (is it shallow?)")


def unpack(revision: str, into: Path) -> dict[str, str]:
    """The package as it was then; gives the environment in which Python finds it, and none else."""
    with tarfile.open(fileobj=io.BytesIO(git("archive", revision, PACKAGE))) as archive:
        archive.extractall(into, filter="data")
    environ = {"PYTHONPATH": str(into), "PYTHONSAFEPATH": "1"}
    where = run(environ, f"import {PACKAGE}.serve as serve; print(serve.__file__)")
    assert Path(where) == into / PACKAGE / "serve.py"
    return environ


def run(environ: dict[str, str], code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environ},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
    ).stdout.strip()


def first_house() -> str:
    """The last commit before settings were renamed: its package still knows the old names."""
    for revision in commits():
        try:
            text = git("show", f"{revision}:{PACKAGE}/model/settings.py").decode()
        except subprocess.CalledProcessError:
            break
        if "    quarantine_min_s: " in text:
            return revision
    pytest.skip("the clone has no commit from before the renaming (is it shallow?)")


def schema_of(revision: str) -> int | None:
    """The version of the store's schema then; None where there was no store."""
    for file in ("store/sqlite/schema.py", "store/schema.py"):
        try:
            text = git("show", f"{revision}:{PACKAGE}/{file}").decode()
        except subprocess.CalledProcessError:
            continue
        # Read, not run: what it imports has moved since.
        [migrations] = [
            node.value
            for node in ast.parse(text).body
            if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "MIGRATIONS"
        ]
        assert isinstance(migrations, ast.Dict)
        return max(ast.literal_eval(key) for key in migrations.keys if key is not None)
    return None


def of_an_earlier_schema(revisions: Sequence[str]) -> str:
    """The newest commit whose store has an earlier schema."""
    for revision in revisions:
        version = schema_of(revision)
        if version is None:
            break
        if version != VERSION:
            return revision
    pytest.skip(f"schema {VERSION} is the only one that ever was")


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path, PROGRAM)
    yield made
    made.end()


@pytest.fixture(params=["the previous version", "an earlier schema"])
def previous(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    revisions = commits()
    chosen = (
        revisions[0] if request.param == "the previous version" else of_an_earlier_schema(revisions)
    )
    environ = unpack(chosen, tmp_path / "previous")
    print(f"{request.param}: {git('log', '-1', '--format=%h %s', chosen).decode().strip()}")
    return environ


def wait_for(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def queue_some(daemon: DaemonProcess, house: House) -> int:
    """Work that is accepted and cannot be done by the time the daemon ends; gives how much there is."""
    for number in range(QUEUED):
        key = f"queued-{number}"
        headers = {"Idempotency-Key": key}
        status, answer = daemon.request(
            "POST", "/api/plugins/slow/ingress/take", {"key": key}, headers
        )
        if status == 429:
            break
        assert status == 202, answer
        told = {"plugin": "slow", "key": key, "event_id": answer["event_id"], "tries": 1}
        with house.answers.open("a") as answers:
            answers.write(json.dumps(told) + "\n")
    _, record = daemon.request("GET", "/api/plugins/slow")
    return record["queue_depth"]


def upgrade(
    house: House,
    previous: dict[str, str],
    how: int,
    between: Callable[[], None] = lambda: None,
) -> tuple[DaemonProcess, int]:
    """Runs the previous version under load, replaces it; gives this version's daemon and what was queued."""
    house.environ = previous
    daemon = house.ready(house.start())
    with house.clients():
        wait_for(lambda: len(house.answered()) >= ANSWERS)
        queued = queue_some(daemon, house)
        if how == signal.SIGKILL:
            house.kill(daemon)
        else:
            daemon.signal(how)
            assert daemon.wait(30) == 0
            daemon.end()
        between()
        house.environ = {}
        daemon = house.ready(house.start())
        before = len(house.answered())
        wait_for(lambda: len(house.answered()) >= before + ANSWERS)
    return daemon, queued


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=lambda how: how.name)
def test_an_upgrade_under_load_loses_nothing(
    house: House, previous: dict[str, str], how: int, capsys: pytest.CaptureFixture[str]
) -> None:
    followers = [Follower(house.state) for _ in range(3)]
    for follower in followers:
        follower.start()
    daemon, queued = upgrade(house, previous, how)
    assert queued > 20
    head = end(daemon, followers)
    attempts = check_books(house)
    check_streams(house, followers)
    # Each was cut off by the replacement, and went on exactly where it was.
    assert all(follower.resumed["exact"] >= 1 for follower in followers)
    with capsys.disabled():
        print(
            f"\n{len(attempts)} events, {queued} of them queued at the end of the previous version; "
            f"stream of {head}, resumes {[dict(one.resumed) for one in followers]}"
        )


def test_an_upgrade_from_the_first_house_says_which_settings_were_renamed(
    house: House, tmp_path: Path
) -> None:
    file = house.config / "yoi-daemon.toml"
    before = "quarantine_min_s = 7\nquarantine_max_s = 70\n"
    plain = file.read_text()
    file.write_text(plain.replace("[plugins.slow]\n", f"[plugins.slow]\n{before}"))
    follower = Follower(house.state)
    follower.start()

    def rename() -> None:
        house.environ = {}
        refused = house.start()
        assert refused.wait(30) == 78
        said = "\n".join(refused.lines)
        for bound in ("min_s", "max_s"):
            assert f"plugins.slow.quarantine_{bound}: was renamed to give_up_{bound}" in said
        refused.end()
        # As the message says, and nothing else.
        file.write_text(file.read_text().replace("quarantine_", "give_up_"))

    daemon, queued = upgrade(
        house, unpack(first_house(), tmp_path / "previous"), signal.SIGTERM, rename
    )
    assert queued > 20
    end(daemon, [follower])
    check_books(house)
    check_streams(house, [follower])
    assert follower.resumed["exact"] >= 1


def test_the_control_one_that_begins_with_nothing_is_caught(house: House, tmp_path: Path) -> None:
    def lose() -> None:
        for file in house.state.glob("store.sqlite3*"):
            file.unlink()

    follower = Follower(house.state)
    follower.start()
    daemon, queued = upgrade(
        house, unpack(commits()[0], tmp_path / "previous"), signal.SIGTERM, lose
    )
    settle(daemon)
    follower.stopped.set()
    follower.join(10)
    assert daemon.stop() == 0
    assert queued > 20
    assert house.lost()
    assert follower.refused == ["cursor_expired"]
    assert follower.resumed["exact"] == 0
    with pytest.raises(AssertionError):
        check_books(house)
