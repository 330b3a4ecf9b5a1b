"""A plugin's settings: its own table decoded into the author's type, each secret read from its file."""

from contextlib import suppress
from pathlib import Path
from typing import Any

from yoi_daemon.model.config_faults import Faults
from yoi_daemon.model.configuration import (
    convert_table,
)
from yoi_daemon.model.directories import Directories
from yoi_daemon.model.errors import ConfigurationError
from yoi_daemon.model.redaction import Redaction
from yoi_daemon.plugins.loading.source import LoadFailed
from yoi_daemon.sdk.config import Config, Secret
from yoi_daemon.sdk.plugin import Plugin
from yoi_daemon.trusted_files import NotTrusted, Trust, read_trusted


def load_config(
    plugin: Plugin[Any],
    table: dict[str, Any],
    directories: Directories,
    trust: Trust,
    redaction: Redaction,
) -> Config:
    """Returns the author's settings; `redaction` is told of their secrets.

    Raises `LoadFailed` (`configuration_error`) with every fault.
    """
    text = ""
    with suppress(OSError, UnicodeDecodeError, NotTrusted):  # without it only line numbers are lost
        text = read_trusted(directories.config_file, trust).decode("utf-8")
    faults = Faults(
        directories.config_file.name, text
    )  # this is shown in answers, which tell no place

    def decode(kind: type, value: Any) -> Any:
        if kind is not Secret:
            raise NotImplementedError
        secret = _read_secret(value, directories.secrets, trust)
        redaction.add(secret)
        return Secret(secret)

    try:
        config = convert_table(
            table, plugin.config_type, ("plugins", plugin.name, "config"), faults, decode
        )
        faults.raise_if_any()
    except ConfigurationError as error:
        raise LoadFailed("configuration_error", str(error)) from error
    except BaseException as error:
        # The author's types and hooks decide what is raised here, `sys.exit()` too; the value may be in its text.
        raise LoadFailed(  # noqa: ASYNC104 (runs in a thread: no cancellation comes here)
            "definition_error",
            f"plugins/{plugin.name}: {plugin.config_type.__name__} cannot be read from TOML: "
            f"{type(error).__name__}; its fields need types that msgspec converts",
        ) from error
    return config


def _read_secret(name: Any, secrets: Path, trust: Trust) -> str:
    """Returns the secret in the file `name`. What is wrong is told without the name: it may be a pasted secret."""
    if not isinstance(name, str) or not name or "/" in name or "\0" in name or name[0] == ".":
        raise ValueError("expected the name of a file in the secrets directory")
    try:
        text = read_trusted(secrets / name, trust, beneath=secrets, private=True).decode("utf-8")
    except FileNotFoundError as error:
        raise ValueError(
            "there is no file of this name in the secrets directory; make it, readable by the daemon only"
        ) from error
    except NotTrusted as error:
        where = "the file of this name in" if error.path == secrets / name else "the way to"
        raise ValueError(f"{where} the secrets directory: {error.reason}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            "the file of this name in the secrets directory cannot be read as text"
        ) from error
    value = text.strip("\r\n")
    if not value:
        raise ValueError("the file of this name in the secrets directory is empty")
    return value
