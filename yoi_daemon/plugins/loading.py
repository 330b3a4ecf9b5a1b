"""From a module's file to a plugin: read, compiled from those bytes, run, and its settings decoded."""

import hashlib
import os
import sys
import traceback
import types
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import msgspec

from yoi_daemon.model.configuration import Faults, convert_table
from yoi_daemon.model.errors import ConfigurationError, YoiError
from yoi_daemon.model.public_text import public_text
from yoi_daemon.model.workers import cut_text
from yoi_daemon.plugins.discovery import Found
from yoi_daemon.sdk.config import Config, Secret
from yoi_daemon.sdk.plugin import API_VERSION, Plugin, PluginDefinitionError

MODULE_PREFIX = "yoi_plugin_"
"""Plugin modules have this before their name, so that one called `json.py` shadows nothing.

No dot in it: `from . import x` in a package asks for its top-level package, which must exist.
"""
MAX_MESSAGE_BYTES = 8192
"""What is kept of why a module cannot be a plugin: room for some forty faults of its settings."""


class LoadFailed(YoiError):
    """A module cannot be a plugin as it is. No restart is spent on it: it waits for a change.

    `code` is `unreadable`, `syntax_error`, `import_failed`, `api_version`, `definition_error` or
    `configuration_error`; `message` says where and what to do.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        # An author's exception may say anything at any length; events and logs carry this.
        printable = message.encode("utf-8", "backslashreplace")
        self.message = cut_text(printable.decode("utf-8"), MAX_MESSAGE_BYTES)[0]


class LoadedPlugin(msgspec.Struct, frozen=True):
    """A plugin ready to start. `digest` is of its source, and part of the name of its `module`."""

    plugin: Plugin[Any]
    config: Config
    digest: str
    module: str
    file: str
    folder: str
    base: str


def load_plugin(
    found: Found, table: dict[str, Any], *, config_file: Path, secrets: Path
) -> LoadedPlugin:
    """Runs the module and decodes `table`, its `[plugins.NAME.config]`. Blocking: call it in a thread.

    Raises `LoadFailed`.
    """
    # The digest first: of a file that changes in between, the code is newer, and a reload sees it.
    digest = digest_of(found)
    code = compile_plugin(found)
    # Two versions live side by side while one takes over from the other. No plugin id has two underscores.
    name = f"{MODULE_PREFIX}{found.plugin_id}__{digest[:12]}"
    before = sys.modules.get(name)
    try:
        plugin = _run_module(name, found, code)
        config = load_config(
            plugin, table, found.plugin_id, config_file=config_file, secrets=secrets
        )
    except LoadFailed:
        _restore(name, before)  # what ran before goes on with its own module
        raise
    except BaseException as error:
        # An author's annotations and checks run here too; a value may be in what they raise.
        _restore(name, before)
        raise LoadFailed(  # noqa: ASYNC104 (runs in a thread: no cancellation comes here)
            "definition_error",
            f"{_name(found)}: {type(error).__name__} while its declarations were read; "
            "annotations must be importable at run time",
        ) from error
    is_package = found.file.name == "__init__.py"
    return LoadedPlugin(
        plugin=plugin,
        config=config,
        digest=digest,
        module=name,
        file=str(found.file),
        # A single module is its own folder: nothing lies below it.
        folder=str(found.file.parent if is_package else found.file),
        base=str(found.file.parent.parent if is_package else found.file.parent),
    )


def forget_module(loaded: LoadedPlugin) -> None:
    """Lets go of a module that another version has taken over from."""
    _forget(loaded.module)


def digest_of(found: Found) -> str:
    """The SHA-256 of the module's source, of all of a package's. Raises `LoadFailed` (`unreadable`)."""
    is_package = found.file.name == "__init__.py"
    files = sorted(found.file.parent.rglob("*.py")) if is_package else [found.file]
    digest = hashlib.sha256()
    try:
        for file in files:
            digest.update(os.fsencode(file.relative_to(found.file.parent)) + b"\0")
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    except OSError as error:
        raise LoadFailed("unreadable", f"{_name(found)}: {error.strerror}") from error
    return digest.hexdigest()


def compile_plugin(found: Found) -> types.CodeType:
    """The code compiled from the file's bytes: no `.pyc` is looked for or written.

    Raises `LoadFailed`: `unreadable`, `syntax_error`.
    """
    try:
        source = found.file.read_bytes()
    except OSError as error:
        raise LoadFailed("unreadable", f"{_name(found)}: {error.strerror}") from error
    try:
        return compile(source, str(found.file), "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        place = f"{_name(found)}:{line}" if line else _name(found)
        raise LoadFailed(
            "syntax_error", f"{place}: {public_text(str(getattr(error, 'msg', error)))}"
        ) from error
    except (RecursionError, MemoryError, OverflowError) as error:
        raise LoadFailed("syntax_error", f"{_name(found)}: is nested too deeply") from error


def load_config(
    plugin: Plugin[Any], table: dict[str, Any], plugin_id: str, *, config_file: Path, secrets: Path
) -> Config:
    """The author's settings. Raises `LoadFailed` (`configuration_error`) with every fault."""
    text = ""
    with suppress(OSError, UnicodeDecodeError):  # without it only line numbers are lost
        text = config_file.read_text(encoding="utf-8")
    faults = Faults(config_file.name, text)  # this is shown in answers, which tell no place

    def decode(kind: type, value: Any) -> Any:
        if kind is Secret:
            return _read_secret(value, secrets)
        raise NotImplementedError

    try:
        config = convert_table(
            table, plugin.config_type, ("plugins", plugin_id, "config"), faults, decode
        )
        faults.raise_if_any()
    except ConfigurationError as error:
        raise LoadFailed("configuration_error", str(error)) from error
    except Exception as error:
        # The author's types and hooks decide what is raised here; the value may be in its text.
        raise LoadFailed(
            "definition_error",
            f"plugins/{plugin_id}: {plugin.config_type.__name__} cannot be read from TOML: "
            f"{type(error).__name__}; its fields need types that msgspec converts",
        ) from error
    return config


def _read_secret(name: Any, secrets: Path) -> Secret:
    """The secret in the file `name`. What is wrong is told without the name: it may be a pasted secret."""
    if not isinstance(name, str) or not name or "/" in name or name.startswith("."):
        raise ValueError("expected the name of a file in the secrets directory")
    try:
        text = (secrets / name).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ValueError(
            "there is no file of this name in the secrets directory; make it, readable by the daemon only"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            "the file of this name in the secrets directory cannot be read as text"
        ) from error
    value = text.strip("\r\n")
    if not value:
        raise ValueError("the file of this name in the secrets directory is empty")
    return Secret(value)


def _run_module(name: str, found: Found, code: types.CodeType) -> Plugin[Any]:
    module = types.ModuleType(name)
    module.__file__ = str(found.file)
    if found.file.name == "__init__.py":
        module.__path__ = [str(found.file.parent)]
        module.__package__ = name
    sys.modules[name] = module  # msgspec and typing look annotations up here
    try:
        exec(code, module.__dict__)
    except PluginDefinitionError as error:
        raise LoadFailed(
            "definition_error", f"{_name(found)}: {public_text(f'{error}')}"
        ) from error
    except BaseException as error:
        raise LoadFailed(  # noqa: ASYNC104 (runs in a thread: no cancellation comes here)
            "import_failed",
            f"{_name(found)}{_line(error, found)}: {type(error).__name__}: {public_text(f'{error}')}",
        ) from error
    return _checked(module.__dict__.get("plugin"), found)


def _checked(plugin: Any, found: Found) -> Plugin[Any]:
    if not isinstance(plugin, Plugin):
        raise LoadFailed(
            "definition_error",
            f'{_name(found)}: expected plugin = Plugin("{found.plugin_id}") at the module\'s top',
        )
    checked = cast("Plugin[Any]", plugin)
    if checked.name != found.plugin_id:
        raise LoadFailed(
            "definition_error",
            f'{_name(found)}: Plugin("{checked.name}") must have the name of its file, "{found.plugin_id}"',
        )
    if not 1 <= checked.api_version <= API_VERSION:
        raise LoadFailed(
            "api_version",
            f"{_name(found)}: asks for version {checked.api_version} of the plugin interface; "
            f"this daemon has 1 to {API_VERSION}",
        )
    if not checked.has_service and not checked.tools:
        raise LoadFailed(
            "definition_error",
            f"{_name(found)}: declares nothing; add a start, an ingress or a tool",
        )
    for spec in checked.ingresses.values():
        if spec.verify is not None and not _has_secret(checked.config_type):
            raise LoadFailed(
                "definition_error",
                f"{_name(found)}: ingress {spec.name} verifies signatures; its Config needs a field "
                "`secret: Secret` or `secret: list[Secret]`",
            )
    return checked


def _has_secret(config_type: type[Config]) -> bool:
    kinds = {field.name: field.type for field in msgspec.structs.fields(config_type)}
    return kinds.get("secret") in (Secret, list[Secret])


def _forget(module: str) -> None:
    for name in [*sys.modules]:
        if name == module or name.startswith(module + "."):
            del sys.modules[name]


def _restore(name: str, before: types.ModuleType | None) -> None:
    if before is None:
        _forget(name)
    else:
        sys.modules[name] = before


def _name(found: Found) -> str:
    return f"plugins/{found.file.name if found.file.name != '__init__.py' else found.plugin_id}"


def _line(error: BaseException, found: Found) -> str:
    lines = [
        n
        for frame, n in traceback.walk_tb(error.__traceback__)
        if frame.f_code.co_filename == str(found.file)
    ]
    return f":{lines[-1]}" if lines else ""
