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
