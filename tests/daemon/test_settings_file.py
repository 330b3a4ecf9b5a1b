import os

import msgspec
import pytest

from yoi_daemon.daemon.settings_file import read_settings
from yoi_daemon.model.directories import Directories
from yoi_daemon.model.errors import ConfigurationError
from yoi_daemon.model.settings import Settings


@pytest.fixture
def directories(tmp_path) -> Directories:
    return Directories(tmp_path, tmp_path / "state", tmp_path / "secrets")


def test_no_file_is_the_defaults(directories):
    assert read_settings(directories, {}) == Settings()


def test_no_file_takes_the_environment(directories):
    settings = read_settings(directories, {"YOI__API__LISTEN": ":0"})
    assert settings.api.listen == ":0"


def test_a_fault_names_the_file_by_its_path(directories):
    directories.config_file.write_text("[api]\nlisten = 5\n")
    with pytest.raises(ConfigurationError) as caught:
        read_settings(directories, {})
    assert str(caught.value).startswith(f"{directories.config_file}:2: api.listen: ")


@pytest.mark.parametrize(
    ("content", "says"), [(b"a = '\xff'", "is not UTF-8"), (None, "cannot be read")]
)
def test_a_file_that_cannot_be_read_is_a_fault(directories, content, says):
    if content is None:
        directories.config_file.mkdir()
    else:
        directories.config_file.write_bytes(content)
    with pytest.raises(ConfigurationError, match=says):
        read_settings(directories, {})


def test_windows_line_ends_count_as_one(directories):
    directories.config_file.write_bytes(b"[api]\r\n\r\nlisten = 5\r\n")
    with pytest.raises(ConfigurationError, match=r"toml:3: api.listen"):
        read_settings(directories, {})


def test_a_directory_that_was_named_and_is_not_there_is_a_fault(tmp_path):
    named = Directories(tmp_path / "typo", tmp_path / "s", tmp_path / "x", is_named=True)
    with pytest.raises(ConfigurationError) as caught:
        read_settings(named, {})
    (fault,) = caught.value.faults
    assert (fault.file, fault.key) == (str(tmp_path / "typo"), "")
    assert "there is no such directory" in fault.expected
    named.config.mkdir()
    assert read_settings(named, {}) == Settings()
    assert (
        read_settings(Directories(tmp_path / "no", tmp_path / "s", tmp_path / "x"), {})
        == Settings()
    )


@pytest.mark.parametrize("at", ["yoi-daemon.toml", "."])
def test_a_file_that_others_could_have_written_is_a_fault_and_not_read(directories, at):
    directories.config_file.write_text("[not read]\n")
    loose = directories.config / at
    loose.chmod(loose.stat().st_mode | 0o002)
    with pytest.raises(ConfigurationError) as caught:
        read_settings(directories, {})
    (fault,) = caught.value.faults
    assert str(fault) == f"{loose}: may be written by everyone; chmod o-w"


def test_under_systemd_a_group_may_not_write_either(directories):
    directories.config_file.write_text("")
    directories.config_file.chmod(0o664)
    assert read_settings(directories, {}) == Settings()
    with pytest.raises(ConfigurationError, match="by its group"):
        read_settings(msgspec.structs.replace(directories, by_systemd=True), {})


def test_a_fifo_in_its_place_does_not_hold_the_daemon(directories):
    os.mkfifo(directories.config_file)
    with pytest.raises(ConfigurationError, match="not a regular file"):
        read_settings(directories, {})
