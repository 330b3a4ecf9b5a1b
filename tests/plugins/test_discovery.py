import os
from pathlib import Path

import pytest

from yoi_daemon.model.errors import ConfigurationError
from yoi_daemon.model.ids import RESERVED_PLUGIN_IDS
from yoi_daemon.plugins.loading.discovery import Discovery
from yoi_daemon.plugins.loading.discovery import discover as discover_trusted
from yoi_daemon.trusted_files import Trust


def discover(directory: Path) -> Discovery:
    return discover_trusted(directory, Trust(frozenset({0, os.geteuid()}), strict=False))


def test_a_missing_directory_holds_nothing(tmp_path):
    discovery = discover(tmp_path / "plugins")
    assert discovery.found == {}
    assert discovery.faults == ()


def test_modules_and_packages_are_found_by_name_and_nothing_is_run(tmp_path):
    (tmp_path / "one.py").write_text("raise SystemExit('must not be run')")
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "__init__.py").write_text("syntax error here")
    discovery = discover(tmp_path)
    assert {name: found.file for name, found in discovery.found.items()} == {
        "one": tmp_path / "one.py",
        "two": tmp_path / "two" / "__init__.py",
    }
    assert discovery.faults == ()


def test_what_is_no_module_is_passed_over(tmp_path):
    for name in (".hidden.py", "__init__.py", "notes.txt", "one.pyc", "one.py~", ".#one.py"):
        (tmp_path / name).write_text("")
    for name in ("__pycache__", ".git", "data"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.py").write_text("")
    discovery = discover(tmp_path)
    assert discovery.found == {}
    assert discovery.faults == ()


@pytest.mark.parametrize(
    "name", ["Upper", "with-dash", "1st", "_x", "a__b", "a" * 33, *RESERVED_PLUGIN_IDS]
)
def test_a_module_whose_name_is_no_id_is_a_fault(tmp_path, name):
    (tmp_path / f"{name}.py").write_text("")
    (tmp_path / "good.py").write_text("")
    discovery = discover(tmp_path)
    assert list(discovery.found) == ["good"]
    (fault,) = discovery.faults
    assert fault.file == str(tmp_path / f"{name}.py")
    assert "expected the name" in fault.expected


def test_two_modules_of_one_name_are_a_fault(tmp_path):
    (tmp_path / "one.py").write_text("")
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "__init__.py").write_text("")
    discovery = discover(tmp_path)
    assert list(discovery.found) == ["one"]
    (fault,) = discovery.faults
    assert "has the same name; remove one" in fault.expected


def test_ids_come_in_order(tmp_path):
    for name in ("b", "a", "c"):
        (tmp_path / f"{name}.py").write_text("")
    assert list(discover(tmp_path).found) == ["a", "b", "c"]


def test_a_directory_that_is_none_cannot_be_read(tmp_path):
    (tmp_path / "plugins").write_text("")
    with pytest.raises(ConfigurationError, match="Not a directory"):
        discover(tmp_path / "plugins")
