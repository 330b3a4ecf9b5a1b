"""A copy is of one moment, whatever is written meanwhile."""

import sqlite3
from pathlib import Path

import pytest

from yoi_daemon.model.errors import NotAllowed, StorageFailed
from yoi_daemon.store.sqlite import backup, schema
from yoi_daemon.store.sqlite.backup import back_up
from yoi_daemon.store.sqlite.connection import connect
from yoi_daemon.store.sqlite.reading import open_for_reading

ROWS = 400


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A store of some hundred pages."""
    path = tmp_path / "store.sqlite3"
    connection = connect(path)
    connection.execute("PRAGMA journal_mode = WAL")
    schema.migrate(connection, str(path))
    connection.execute("INSERT INTO fact VALUES ('epoch', 'e')")
    connection.execute("BEGIN")
    for number in range(ROWS):
        put(connection, number, 0)
    connection.execute("COMMIT")
    connection.close()
    return path


class Endless(Exception):
    """The copy begins again and again."""


def put(connection: sqlite3.Connection, number: int, run: int) -> None:
    row = ("p", f"k{number}", b"%d" % run + b"x" * 2000)
    connection.execute("INSERT OR REPLACE INTO plugin_value VALUES (?, ?, ?)", row)


def runs_in(path: Path) -> set[bytes]:
    connection = sqlite3.connect(path)
    rows = connection.execute("SELECT substr(value, 1, 1), value FROM plugin_value").fetchall()
    assert len(rows) == ROWS
    connection.close()
    return {bytes(first) for first, _ in rows}


def copy_beside_a_writer(source: sqlite3.Connection, file: Path, target: Path) -> list[float]:
    """Every row is changed between any two steps; gives the shares that were told."""
    writer = connect(file)
    told: list[float] = []

    def write(share: float) -> None:
        told.append(share)
        if len(told) > 200:
            raise Endless
        writer.execute("BEGIN IMMEDIATE")
        for number in range(0, ROWS, 7):
            put(writer, number, 1 + len(told) % 8)
        writer.execute("COMMIT")

    try:
        back_up(source, target, write)
    finally:
        writer.close()
    return told


def test_it_is_of_one_moment_and_begins_once(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backup, "PAGES_AT_ONCE", 5)
    target = tmp_path / "copy"
    with open_for_reading(file) as source:
        told = copy_beside_a_writer(source, file, target)
    assert len(told) > 20
    assert told == sorted(told)
    assert runs_in(target) == {b"0"}
    assert len(runs_in(file)) > 1


def test_the_negative_control_without_the_moment_it_begins_again_and_again(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backup, "PAGES_AT_ONCE", 5)
    source = connect(file)
    with pytest.raises(Endless):
        copy_beside_a_writer(source, file, tmp_path / "copy")
    source.close()
    assert sorted(path.name for path in tmp_path.iterdir() if "copy" in path.name) == []


def test_it_is_one_file_of_its_owner_and_says_that_it_is_a_copy(file: Path, tmp_path: Path) -> None:
    target = tmp_path / "copy"
    with open_for_reading(file) as source:
        size = back_up(source, target, lambda _: None)
    assert target.stat().st_mode & 0o777 == 0o600
    assert target.stat().st_size == size
    assert [path.name for path in tmp_path.glob("copy*")] == ["copy"]
    connection = sqlite3.connect(target)
    assert connection.execute("SELECT * FROM fact ORDER BY name").fetchall() == [
        ("epoch", "e"),
        ("restored", 1),
    ]
    connection.close()
    with open_for_reading(file) as source:
        assert source.execute("SELECT count(*) FROM fact").fetchone() == (1,)


@pytest.mark.parametrize("name", ["copy", "copy.partial"])
def test_it_writes_over_nothing(file: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("theirs")
    with open_for_reading(file) as source, pytest.raises(NotAllowed, match="exists already"):
        back_up(source, tmp_path / "copy", lambda _: None)
    assert [path.name for path in tmp_path.glob("copy*")] == [name]
    assert (tmp_path / name).read_text() == "theirs"


def test_a_backup_that_ends_early_leaves_nothing(file: Path, tmp_path: Path) -> None:
    def stop(_: float) -> None:
        raise KeyboardInterrupt

    with open_for_reading(file) as source, pytest.raises(KeyboardInterrupt):
        back_up(source, tmp_path / "copy", stop)
    assert list(tmp_path.glob("copy*")) == []
    with open_for_reading(file) as source, pytest.raises(NotAllowed, match="cannot be written"):
        back_up(source, tmp_path / "nowhere" / "copy", lambda _: None)


def test_a_reading_connection_cannot_write(file: Path) -> None:
    with (
        pytest.raises(StorageFailed, match="readonly"),
        open_for_reading(file) as source,
    ):
        source.execute("DELETE FROM plugin_value")
