"""The directories of the daemon: configuration, state and secrets."""

from collections.abc import Mapping
from pathlib import Path

import msgspec

from yoi_daemon.model.errors import ConfigFault, ConfigurationError

CONFIG_FILE = "yoi-daemon.toml"
PROGRAM = "yoi-daemon"
DAEMON_FILE = "daemon.json"
BLOCKED_FILE = "blocked.json"


class Directories(msgspec.Struct, frozen=True):
    """Absolute paths; `runtime` is systemd's, and exists while the service runs.

    `is_named` if the configuration was named by an option, so that it must exist; `by_systemd` if
    systemd set the directories.
    """

    config: Path
    state: Path
    secrets: Path
    is_named: bool = False
    by_systemd: bool = False
    runtime: Path | None = None

    @property
    def config_file(self) -> Path:
        """Returns the configuration file; it need not exist."""
        return self.config / CONFIG_FILE

    @property
    def plugins(self) -> Path:
        """Returns the directory of plugin modules."""
        return self.config / "plugins"

    @property
    def daemon_files(self) -> tuple[Path, ...]:
        """Files that hold the listen addresses of a running daemon."""
        return tuple(place / DAEMON_FILE for place in self._told_in)

    @property
    def blocked_files(self) -> tuple[Path, ...]:
        """Files that name what blocks the event loop, while the daemon cannot answer."""
        return tuple(place / BLOCKED_FILE for place in self._told_in)

    @property
    def _told_in(self) -> tuple[Path, ...]:
        return (self.state,) if self.runtime is None else (self.state, self.runtime)

    @property
    def admin_token_file(self) -> Path:
        """Returns the file of the token made at first start."""
        return self.state / "admin.token"

    @property
    def boots_file(self) -> Path:
        """Returns the journal of boots that died."""
        return self.state / "boots.jsonl"

    @property
    def tokens_file(self) -> Path:
        """Returns the file of all other tokens' records."""
        return self.state / "tokens.json"


def find_directories(
    config: str | None, state: str | None, environ: Mapping[str, str]
) -> Directories:
    """Returns the directories by option, by systemd's variables, or by the XDG rules, in this order.

    Raises `ConfigurationError` if none of them names a directory because HOME is unset.
    """
    state_path = _find(
        "--state", state, environ, "STATE_DIRECTORY", "XDG_STATE_HOME", ".local/state"
    )
    credentials = environ.get("CREDENTIALS_DIRECTORY")
    by_systemd = bool(environ.get("CONFIGURATION_DIRECTORY"))
    return Directories(
        config=_find(
            "--config", config, environ, "CONFIGURATION_DIRECTORY", "XDG_CONFIG_HOME", ".config"
        ),
        state=state_path,
        secrets=Path(credentials) if credentials else state_path / "secrets",
        runtime=_first_of(environ, "RUNTIME_DIRECTORY"),
        is_named=bool(config) or by_systemd,
        # INVOCATION_ID tells nothing: every shell of a desktop session has one.
        by_systemd=by_systemd,
    )


def _find(
    flag: str, given: str | None, environ: Mapping[str, str], systemd: str, xdg: str, home: str
) -> Path:
    if given:
        return Path(given).absolute()
    if by_systemd := _first_of(environ, systemd):
        return by_systemd
    base = environ.get(xdg, "")
    if base.startswith("/"):  # the XDG rules ignore a relative path
        return Path(base) / PROGRAM
    if not environ.get("HOME"):
        raise ConfigurationError(
            [
                ConfigFault(
                    file="environment", key="HOME", expected=f"is unset; set it, or give {flag} DIR"
                )
            ]
        )
    return Path(environ["HOME"]) / home / PROGRAM


def _first_of(environ: Mapping[str, str], name: str) -> Path | None:
    # systemd separates several directories by colons; the first is ours.
    first = environ.get(name, "").split(":")[0]
    return Path(first) if first else None
