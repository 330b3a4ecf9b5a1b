"""Finds plugin modules in the configuration directory. Nothing is read or run."""

from contextlib import suppress
from pathlib import Path

import msgspec

from yoi_daemon.model.errors import ConfigFault, ConfigurationError
from yoi_daemon.model.ids import PLUGIN_ID_RULE, is_plugin_id
from yoi_daemon.trusted_files import NotTrusted, Trust, list_trusted

INIT = "__init__.py"


class Found(msgspec.Struct, frozen=True):
    """A module: `file` is `NAME.py`, or the `__init__.py` of a package."""

    plugin_id: str
    file: Path

    @property
    def name(self) -> str:
        """As messages have it, without the place of the directory."""
        return f"plugins/{self.plugin_id if self.file.name == INIT else self.file.name}"


class Discovery(msgspec.Struct, frozen=True):
    """What lies in the directory, by id, and what lies there and cannot be a plugin."""

    found: dict[str, Found]
    faults: tuple[ConfigFault, ...]


def discover(directory: Path, trust: Trust) -> Discovery:
    """Looks at the entries of `directory`; a missing one holds nothing. Hidden entries are passed over.

    Raises `ConfigurationError` when the directory cannot be read or trusted.
    """
    found: dict[str, Found] = {}
    faults: list[ConfigFault] = []
    try:
        entries = list_trusted(directory, trust)
    except FileNotFoundError:
        entries = []
    except NotTrusted as error:
        raise ConfigurationError([_fault(error.path, error.reason)]) from error
    except OSError as error:
        raise ConfigurationError(
            [_fault(directory, f"cannot be read: {error.strerror}")]
        ) from error
    for entry in entries:
        if entry.name.startswith((".", "__")):
            continue
        path = directory / entry.name
        if path.suffix == ".py":
            name, file = path.stem, path
        elif entry.may_be_directory and _has_init(path, directory, trust):
            name, file = entry.name, path / INIT
        else:
            continue
        if not is_plugin_id(name):
            faults.append(_fault(path, f"expected the name {PLUGIN_ID_RULE}"))
        elif name in found:
            faults.append(_fault(path, f"{found[name].file} has the same name; remove one"))
        else:
            found[name] = Found(name, file)
    return Discovery(found, tuple(faults))


def _has_init(package: Path, directory: Path, trust: Trust) -> bool:
    """Returns whether it is a package; one that is not trusted is taken for one, and its loading says why not."""
    with suppress(OSError):
        try:
            return INIT in {entry.name for entry in list_trusted(package, trust, beneath=directory)}
        except NotTrusted:
            return True
    return False


def _fault(path: Path, expected: str) -> ConfigFault:
    return ConfigFault(file=str(path), key="", expected=expected)
