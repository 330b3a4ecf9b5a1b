"""No two rooms define a public class of the same name, but the twins below."""

import ast
from collections.abc import Iterable, Mapping
from pathlib import Path

import yoi_daemon

TWINS: Mapping[str, str] = {
    "Bookmark": "one message of the stream: stream.protocol writes it, client.messages reads it",
    "End": "one message of the stream: stream.protocol writes it, client.messages reads it",
    "Gap": "one message of the stream: stream.protocol writes it, client.messages reads it",
    "Hello": "one message of the stream: stream.protocol writes it, client.messages reads it",
    "RetryAdvice": "a part of the stream's `error`, written by one and read by the other",
    "Snapshot": "one message of the stream: stream.protocol writes it, client.messages reads it",
    "StreamRefused": "the daemon ends a stream with it; the client raises what it was ended with",
    "Window": "the log's window, and what `hello` tells the client of it",
    "DaemonFile": "`daemon.json`: the daemon writes it, client.locate reads it",
    "Command": "the field's word for both: a program that children starts, and a command of click's",
    "Group": "click's word for commands under one name; in the log, what is sent or committed together",
}
"""Most are two ends of one format, which do not import each other: a client knows no daemon's room."""


def rooms_of(root: Path) -> dict[str, set[str]]:
    """The rooms that define each public top-level class below `root`."""
    found: dict[str, set[str]] = {}
    for file in root.rglob("*.py"):
        room = file.relative_to(root).parts[0].removesuffix(".py")
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found.setdefault(node.name, set()).add(room)
    return found


def collisions(root: Path, twins: Iterable[str] = TWINS) -> dict[str, set[str]]:
    return {
        name: rooms
        for name, rooms in rooms_of(root).items()
        if len(rooms) > 1 and name not in twins
    }


PACKAGE = Path(yoi_daemon.__file__).parent


def test_no_two_rooms_define_a_public_class_of_the_same_name():
    assert collisions(PACKAGE) == {}


def test_every_twin_is_one():
    rooms = rooms_of(PACKAGE)
    assert [name for name in TWINS if len(rooms.get(name, ())) < 2] == []


def test_a_class_that_two_rooms_define_is_found(tmp_path):
    for room in ("one", "two"):
        (tmp_path / room).mkdir()
        (tmp_path / room / "module.py").write_text("class Same: ...\nclass _Private: ...\n")
    (tmp_path / "one" / "other.py").write_text("class Own: ...\nclass Twin: ...\n")
    (tmp_path / "two.py").write_text("class Twin: ...\n")
    assert collisions(tmp_path, twins=["Twin"]) == {"Same": {"one", "two"}}
