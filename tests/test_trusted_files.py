"""Whose files are taken. Foreign owners are real where the tests run as root, as in a container."""

import os
import socket
import stat
import time
from contextlib import suppress
from pathlib import Path

import pytest

from yoi_daemon.model.directories import Directories
from yoi_daemon.trusted_files import (
    MAX_FILE_BYTES,
    NotTrusted,
    Trust,
    list_trusted,
    read_trusted,
    trust_for,
)

FOREIGN = 12_345
TRUST = Trust(frozenset({0, os.geteuid()}), strict=False)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


@pytest.fixture
def place(tmp_path) -> Path:
    """A directory two levels down, as `config/plugins` is."""
    directory = tmp_path / "config" / "plugins"
    directory.mkdir(parents=True)
    (directory / "x.py").write_bytes(b"content")
    return directory


def refusal(path: Path, beneath: Path | None = None, **options: bool) -> NotTrusted:
    with pytest.raises(NotTrusted) as caught:
        read_trusted(path, TRUST, beneath=beneath, **options)
    assert str(path.anchor) not in caught.value.reason.split()
    return caught.value


def test_ones_own_file_is_read(place):
    assert read_trusted(place / "x.py", TRUST) == b"content"
    assert read_trusted(place / "x.py", TRUST, beneath=place) == b"content"


@pytest.mark.parametrize("at", ["x.py", ".", "..", "../.."])
def test_a_world_writable_path_is_refused_wherever_it_lies(place, at):
    loose = (place / at).resolve()
    loose.chmod(loose.stat().st_mode | stat.S_IWOTH)
    error = refusal(place / "x.py")
    assert error.path == loose
    assert "written by everyone; chmod o-w" in error.reason


@needs_root
@pytest.mark.parametrize("at", ["x.py", ".", ".."])
def test_a_path_of_another_user_is_refused_wherever_it_lies(place, at):
    os.chown((place / at).resolve(), FOREIGN, -1)
    error = refusal(place / "x.py")
    assert error.path == (place / at).resolve()
    assert f"belongs to user {FOREIGN}" in error.reason


def test_an_owner_who_is_not_trusted_is_refused(place):
    """The same rule where nothing can be given away: nobody but user 1 is trusted here."""
    with pytest.raises(NotTrusted, match="belongs to user"):
        read_trusted(place / "x.py", Trust(frozenset({1}), strict=False))


def test_a_sticky_directory_is_safe_to_pass_and_not_to_hold(place):
    place.parent.chmod(0o1777)
    assert read_trusted(place / "x.py", TRUST) == b"content"
    place.chmod(0o1777)
    assert refusal(place / "x.py").path == place
    with pytest.raises(NotTrusted):
        list_trusted(place, TRUST)


@pytest.mark.parametrize("at", ["x.py", ".", ".."])
def test_a_group_writable_path_is_recorded_and_refused_if_strict(place, at):
    loose = (place / at).resolve()
    loose.chmod(loose.stat().st_mode | stat.S_IWGRP)
    trust = Trust(TRUST.owners, strict=False)
    assert read_trusted(place / "x.py", trust) == b"content"
    assert trust.group_writable == {loose}
    with pytest.raises(NotTrusted, match="by its group; chmod g-w"):
        read_trusted(place / "x.py", Trust(TRUST.owners, strict=True))


def test_systemd_makes_it_strict():
    assert not trust_for(Directories(Path("/c"), Path("/s"), Path("/x"))).strict
    assert trust_for(Directories(Path("/c"), Path("/s"), Path("/x"), by_systemd=True)).strict


# -- links


def test_a_link_is_followed_where_the_whole_way_is_trusted(place, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "real.py").write_bytes(b"real")
    (place / "link.py").symlink_to(tmp_path / "elsewhere" / "real.py")
    (place / "up.py").symlink_to("../../elsewhere/./real.py")
    assert read_trusted(place / "link.py", TRUST) == b"real"
    assert read_trusted(place / "up.py", TRUST) == b"real"
    (tmp_path / "elsewhere").chmod(0o777)
    assert refusal(place / "link.py").path == tmp_path / "elsewhere"
    assert refusal(place / "up.py").path == tmp_path / "elsewhere"


@pytest.mark.parametrize(
    "target", ["{root}/elsewhere.py", "../../elsewhere.py", "sub/../../../elsewhere.py", "../x"]
)
def test_no_link_leads_out_from_beneath(place, tmp_path, target):
    (tmp_path / "elsewhere.py").write_bytes(b"elsewhere")
    (place / "sub").mkdir()
    (place / "link.py").symlink_to(target.format(root=tmp_path))
    assert "out" in refusal(place / "link.py", beneath=place).reason


def test_a_link_within_is_followed_as_in_a_mounted_config_map(place):
    (place / "..2026").mkdir()
    (place / "..2026" / "y.py").write_bytes(b"y")
    (place / "..data").symlink_to("..2026")
    (place / "y.py").symlink_to("..data/y.py")
    assert read_trusted(place / "y.py", TRUST, beneath=place) == b"y"
    (place / "..2026").chmod(0o777)
    refusal(place / "y.py", beneath=place)


@needs_root
def test_a_link_of_another_user_is_not_followed(place):
    place.parent.chmod(0o1777)
    (place.parent / "link").symlink_to("plugins")
    os.chown(place.parent / "link", FOREIGN, -1, follow_symlinks=False)
    assert refusal(place.parent / "link" / "x.py").path == place.parent / "link"


def test_links_that_go_round_end(place):
    (place / "a").symlink_to("b")
    (place / "b").symlink_to("a")
    with pytest.raises(OSError, match="Too many levels"):
        read_trusted(place / "a", TRUST)


def test_a_hard_link_is_refused_for_the_way_to_its_other_name_was_not_checked(place, tmp_path):
    (tmp_path / "other.py").write_bytes(b"other")
    os.link(tmp_path / "other.py", place / "linked.py")
    assert "hard link" in refusal(place / "linked.py").reason


# -- kinds and sizes


def test_a_fifo_a_socket_and_a_device_are_refused_at_once(place):
    os.mkfifo(place / "fifo.py")
    began = time.monotonic()
    assert "not a regular file" in refusal(place / "fifo.py").reason
    assert time.monotonic() - began < 5
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(
            os.path.relpath(place / "s.py")
        )  # the whole path is longer than an address may be
        assert "not a regular file" in refusal(place / "s.py").reason
    refusal(Path("/dev/null"))


def test_a_directory_is_no_file_and_a_file_no_directory(place):
    with pytest.raises(IsADirectoryError):
        read_trusted(place, TRUST)
    for path in (place / "x.py", place / "x.py" / "y"):
        with pytest.raises(NotADirectoryError):
            list_trusted(path, TRUST)
    with pytest.raises(FileNotFoundError):
        read_trusted(place / "none.py", TRUST)


def test_a_file_has_a_size(place):
    (place / "x.py").write_bytes(b"#" * MAX_FILE_BYTES)
    assert len(read_trusted(place / "x.py", TRUST)) == MAX_FILE_BYTES
    (place / "x.py").write_bytes(b"#" * (MAX_FILE_BYTES + 1))
    assert "larger than 1048576 bytes" in refusal(place / "x.py").reason


def test_a_directory_is_listed_by_name(place):
    (place / "pkg").mkdir()
    (place / "link").symlink_to("pkg")
    assert [tuple(entry) for entry in list_trusted(place, TRUST)] == [
        ("link", True),
        ("pkg", True),
        ("x.py", False),
    ]


def test_no_descriptor_is_left_open(place):
    (place / "loop").symlink_to("loop")
    before = len(os.listdir("/proc/self/fd"))
    for name in ("x.py", "loop", "none.py"):
        for beneath in (None, place):
            for do in (read_trusted, list_trusted):
                with suppress(OSError):
                    do(place / name, TRUST, beneath=beneath)
    assert len(os.listdir("/proc/self/fd")) == before


# -- secrets


@pytest.mark.parametrize(
    ("mode", "directory", "is_private"),
    [
        (0o600, 0o755, True),
        (0o400, 0o755, True),
        (0o640, 0o755, False),
        (0o604, 0o755, False),
        (0o644, 0o700, True),
        (0o644, 0o710, False),
        (0o644, 0o701, False),
        (0o640, 0o701, True),
    ],
)
def test_a_secret_is_kept_from_others_by_its_mode_or_its_directorys(
    place, mode, directory, is_private
):
    (place / "x.py").chmod(mode)
    place.chmod(directory)
    if is_private:
        assert read_trusted(place / "x.py", TRUST, private=True) == b"content"
    else:
        assert "read by others" in refusal(place / "x.py", private=True).reason


@needs_root
def test_the_group_may_read_roots_files_as_systemd_grants_credentials(place, monkeypatch):
    (place / "x.py").chmod(0o440)
    refusal(place / "x.py", private=True)
    monkeypatch.setattr(os, "geteuid", lambda: FOREIGN)  # the service's user, not root itself
    assert read_trusted(place / "x.py", TRUST, private=True) == b"content"
    (place / "x.py").chmod(0o444)
    assert "read by others" in refusal(place / "x.py", private=True).reason
