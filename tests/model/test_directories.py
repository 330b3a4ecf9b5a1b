from pathlib import Path

import pytest

from yoi_daemon.model.directories import find_directories
from yoi_daemon.model.errors import ConfigurationError

SYSTEMD = {
    "CONFIGURATION_DIRECTORY": "/etc/yoi-daemon",
    "STATE_DIRECTORY": "/var/lib/yoi-daemon:/var/lib/second",
    "CREDENTIALS_DIRECTORY": "/run/credentials/yoi",
}
XDG = {"XDG_CONFIG_HOME": "/x/config", "XDG_STATE_HOME": "/x/state", "HOME": "/home/u"}


def test_flags_come_first():
    found = find_directories("/c", "/s", SYSTEMD | XDG)
    assert (found.config, found.state) == (Path("/c"), Path("/s"))


def test_flags_are_made_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = find_directories("c", "s", {})
    assert (found.config, found.state) == (tmp_path / "c", tmp_path / "s")
    assert found.secrets == tmp_path / "s" / "secrets"


def test_systemd_comes_before_xdg_and_the_first_of_several_is_ours():
    found = find_directories(None, None, SYSTEMD | XDG)
    assert found.config == Path("/etc/yoi-daemon")
    assert found.state == Path("/var/lib/yoi-daemon")
    assert found.secrets == Path("/run/credentials/yoi")


def test_xdg_comes_before_home():
    found = find_directories(None, None, XDG)
    assert found.config == Path("/x/config/yoi-daemon")
    assert found.state == Path("/x/state/yoi-daemon")
    assert found.secrets == Path("/x/state/yoi-daemon/secrets")


@pytest.mark.parametrize("xdg", [{}, {"XDG_CONFIG_HOME": "relative", "XDG_STATE_HOME": ""}])
def test_home_is_last_and_a_relative_xdg_path_is_ignored(xdg):
    found = find_directories(None, None, {"HOME": "/home/u"} | xdg)
    assert found.config == Path("/home/u/.config/yoi-daemon")
    assert found.state == Path("/home/u/.local/state/yoi-daemon")


def test_without_a_directory_the_error_says_what_to_set():
    with pytest.raises(ConfigurationError, match="HOME: is unset; set it, or give --state DIR"):
        find_directories("/c", None, {})
    find_directories("/c", "/s", {})


def test_the_files_in_them():
    found = find_directories("/c", "/s", {})
    assert found.config_file == Path("/c/yoi-daemon.toml")
    assert found.plugins == Path("/c/plugins")
    assert found.daemon_files == (Path("/s/daemon.json"),)
    assert found.admin_token_file == Path("/s/admin.token")


def test_under_systemd_the_runtime_directory_says_too_where_it_listens():
    found = find_directories("/c", "/s", {"RUNTIME_DIRECTORY": "/run/yoi-daemon:/run/other"})
    assert found.daemon_files == (Path("/s/daemon.json"), Path("/run/yoi-daemon/daemon.json"))


@pytest.mark.parametrize(
    ("flag", "environ", "is_named", "by_systemd"),
    [
        ("/c", {}, True, False),
        (None, {"CONFIGURATION_DIRECTORY": "/etc/x"}, True, True),
        ("/c", {"CONFIGURATION_DIRECTORY": "/etc/x"}, True, True),
        (None, {"XDG_CONFIG_HOME": "/x"}, False, False),
        # Every shell of a desktop session has one: it does not say that systemd runs us as a service.
        (None, {"INVOCATION_ID": "0" * 32}, False, False),
    ],
)
def test_who_named_the_configuration_is_known(flag, environ, is_named, by_systemd):
    found = find_directories(flag, "/s", {"HOME": "/h"} | environ)
    assert (found.is_named, found.by_systemd) == (is_named, by_systemd)
