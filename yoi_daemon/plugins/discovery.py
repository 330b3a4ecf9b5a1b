"""Finds plugin modules in the configuration directory. Nothing is read or run."""

from pathlib import Path

import msgspec

from yoi_daemon.model.errors import ConfigFault, ConfigurationError
from yoi_daemon.model.ids import PLUGIN_ID_RULE, is_plugin_id


class Found(msgspec.Struct, frozen=True):
    """A module: `file` is `NAME.py`, or the `__init__.py` of a package."""

    plugin_id: str
    file: Path


class Discovery(msgspec.Struct, frozen=True):
    """What lies in the directory, by id, and what lies there and cannot be a plugin."""

    found: dict[str, Found]
    faults: tuple[ConfigFault, ...]


def discover(directory: Path) -> Discovery:
    """Looks at the entries of `directory`; a missing one holds nothing. Hidden entries are passed over.

    Raises `ConfigurationError` when the directory cannot be read.
    """
    found: dict[str, Found] = {}
    faults: list[ConfigFault] = []
    try:
        entries = sorted(directory.iterdir())
    except FileNotFoundError:
        entries = []
    except OSError as error:
        fault = ConfigFault(
            file=str(directory), key="", expected=f"cannot be read: {error.strerror}"
        )
        raise ConfigurationError([fault]) from error
    for entry in entries:
        if entry.name.startswith((".", "__")):
            continue
        if entry.is_dir():
            name, file = entry.name, entry / "__init__.py"
            if not file.exists():
                continue
        elif entry.suffix == ".py":
            name, file = entry.stem, entry
        else:
            continue
        if not is_plugin_id(name):
            faults.append(
                ConfigFault(file=str(entry), key="", expected=f"expected the name {PLUGIN_ID_RULE}")
            )
        elif name in found:
            faults.append(
                ConfigFault(
                    file=str(entry),
                    key="",
                    expected=f"{found[name].file} has the same name; remove one",
                )
            )
        else:
            found[name] = Found(name, file)
    return Discovery(found, tuple(faults))
