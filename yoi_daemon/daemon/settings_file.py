"""Reads the configuration file. Parsing it is `model.configuration`; this is the I/O."""

from collections.abc import Mapping

from yoi_daemon.model.configuration import parse_settings
from yoi_daemon.model.directories import Directories
from yoi_daemon.model.errors import ConfigFault, ConfigurationError
from yoi_daemon.model.settings import Settings


def read_settings(directories: Directories, environ: Mapping[str, str]) -> Settings:
    """The settings; the defaults where there is no file. Raises `ConfigurationError` with every fault."""
    file = directories.config_file
    try:
        text = file.read_bytes().decode("utf-8")
    except FileNotFoundError:
        text = ""
    except UnicodeDecodeError as error:
        raise ConfigurationError(
            [ConfigFault(file=str(file), key="", expected="is not UTF-8 text")]
        ) from error
    except OSError as error:
        raise ConfigurationError(
            [ConfigFault(file=str(file), key="", expected=f"cannot be read: {error.strerror}")]
        ) from error
    return parse_settings(text, str(file), environ)
