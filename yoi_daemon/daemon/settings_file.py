"""Reads the configuration file. Parsing it is `model.configuration`; this is the I/O."""

from collections.abc import Mapping

from yoi_daemon.model.configuration import parse_settings
from yoi_daemon.model.directories import Directories
from yoi_daemon.model.errors import ConfigFault, ConfigurationError
from yoi_daemon.model.settings import Settings
from yoi_daemon.trusted_files import NotTrusted, Trust, read_trusted, trust_for


def read_settings(
    directories: Directories, environ: Mapping[str, str], trust: Trust | None = None
) -> Settings:
    """Reads the settings; the defaults where there is no file. `trust` says whose file is accepted.

    Raises `ConfigurationError` with every fault; also where a directory was named and there is none.
    """
    file = directories.config_file
    try:
        content = read_trusted(file, trust_for(directories) if trust is None else trust)
        text = content.decode("utf-8")
    except FileNotFoundError as error:
        if directories.is_named and not directories.config.is_dir():
            expected = "there is no such directory; correct its name, or make it"
            fault = ConfigFault(file=str(directories.config), key="", expected=expected)
            raise ConfigurationError([fault]) from error
        text = ""
    except UnicodeDecodeError as error:
        raise ConfigurationError(
            [ConfigFault(file=str(file), key="", expected="is not UTF-8 text")]
        ) from error
    except NotTrusted as error:
        fault = ConfigFault(file=str(error.path), key="", expected=error.reason)
        raise ConfigurationError([fault]) from error
    except OSError as error:
        raise ConfigurationError(
            [ConfigFault(file=str(file), key="", expected=f"cannot be read: {error.strerror}")]
        ) from error
    return parse_settings(text, str(file), environ)
