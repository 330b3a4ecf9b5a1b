"""Parses TOML into settings, and reports all faults at once, each with file, line and key."""

import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, TypeGuard, Union, get_args, get_origin

import msgspec

from yoi_daemon.model.addresses import TcpAddress, UnixAddress, is_loopback, parse_listen
from yoi_daemon.model.config_faults import Faults, Path
from yoi_daemon.model.errors import ConfigFault, ConfigurationError
from yoi_daemon.model.ids import PLUGIN_ID_RULE, RUNTIME_ID_RULE, is_plugin_id, is_runtime_id
from yoi_daemon.model.settings import RENAMED, ApiSettings, Listen, ObserveSettings, Settings

ENVIRONMENT_PREFIX = "YOI__"

DecodeHook = Callable[[type, Any], Any]


def parse_settings(text: str, file: str, environ: Mapping[str, str]) -> Settings:
    """Parses the text of a configuration file, overridden by `YOI__…` variables.

    Raises `ConfigurationError` with every fault. Values are never part of a fault.
    """
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError([_syntax_fault(file, str(error))]) from error
    except (ValueError, RecursionError) as error:  # an integer of 5000 digits, a thousand brackets
        fault = ConfigFault(file=file, key="", expected="a number is too long, or nests too deeply")
        raise ConfigurationError([fault]) from error
    overridden: dict[Path, str] = {}
    faults = Faults(file, text, overridden)
    _lay_over(table, environ, overridden, faults)
    settings = convert_table(table, Settings, (), faults)
    if settings is not None:
        _check_rules(settings, faults)
    faults.raise_if_any()
    assert settings is not None
    return settings


def convert_table(
    table: Any, into: Any, path: Path, faults: Faults, dec_hook: DecodeHook | None = None
) -> Any:
    """Converts `table` to the msgspec struct `into`, field by field, so that no fault hides another.

    Returns None if there was a fault. msgspec's own messages name a type, never a value.
    """
    if not is_table(table):
        faults.add(path, f"expected a table, got {_toml_type(table)}")
        return None
    given = table
    fields = {field.encode_name: field for field in msgspec.structs.fields(into)}
    values: dict[str, Any] = {}
    complete = True
    for key in given.keys() - fields.keys():
        renamed = RENAMED.get((into, key))
        expected = f"was renamed to {renamed}; write that" if renamed else _known_keys(into)
        faults.add((*path, key), expected)
        complete = False
    for key, field in fields.items():
        if key not in given:
            if field.required:
                faults.add((*path, key), f"is missing; expected {_describe(field.type)}")
                complete = False
            continue
        value = _convert_value(
            given[key], field.type, (*path, key), faults, dec_hook, default=field.default
        )
        if value is _FAULTY:
            complete = False
        else:
            values[field.name] = value
    if not complete:
        return None
    try:
        return into(**values)
    except (ValueError, TypeError) as error:  # an author's __post_init__ refused
        faults.add(path, str(error))
        return None


_FAULTY = object()


def _convert_value(
    value: Any,
    kind: Any,
    path: Path,
    faults: Faults,
    dec_hook: DecodeHook | None,
    *,
    default: Any = msgspec.NODEFAULT,
) -> Any:
    if (kinds := kinds_of(kind)) is not None:
        return _convert_kind(value, kinds, path, faults, dec_hook, default)
    if _is_struct(kind):
        converted = convert_table(value, kind, path, faults, dec_hook)
        return _FAULTY if converted is None else converted
    if get_origin(kind) is dict and is_table(value):
        of = get_args(kind)[1]
        if _is_struct(of) or kinds_of(of) is not None:
            tables = {
                key: _convert_value(item, of, (*path, key), faults, dec_hook)
                for key, item in value.items()
            }
            return _FAULTY if any(table is _FAULTY for table in tables.values()) else tables
    try:
        converted: Any = msgspec.convert(value, kind, dec_hook=dec_hook)
    except msgspec.ValidationError as error:
        message = str(error)
        # msgspec quotes a value that is none of a Literal's; a fault never does.
        quotes = message.startswith("Invalid enum value")
        faults.add(path, f"expected {_describe(kind)}" if quotes else _lower_first(message))
        return _FAULTY
    return converted


class Kinds(NamedTuple):
    """The kinds of a table: the key that names one, and the struct of each by that key's value."""

    key: str
    structs: Mapping[str | int, type[msgspec.Struct]]


def kinds_of(kind: Any) -> Kinds | None:
    """Returns the kinds of a tagged struct or of a union of them, None for any other type."""
    structs = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    if not all(map(_is_struct, structs)):
        return None
    configs = [struct.__struct_config__ for struct in structs]
    if configs[0].tag_field is None:
        return None
    by_tag = {config.tag: struct for config, struct in zip(configs, structs, strict=True)}
    return Kinds(configs[0].tag_field, by_tag)


def _convert_kind(
    value: Any, kinds: Kinds, path: Path, faults: Faults, dec_hook: DecodeHook | None, default: Any
) -> Any:
    """Converts a table by the kind that it names; without a name the kind is that of `default`."""
    if not is_table(value):
        faults.add(path, f"expected a table, got {_toml_type(value)}")
        return _FAULTY
    expected = _one_of(kinds.structs)
    if kinds.key in value:
        tag = value[kinds.key]
    elif isinstance(default, msgspec.Struct):
        tag = default.__struct_config__.tag
    else:
        faults.add((*path, kinds.key), f"is missing; expected {expected}")
        return _FAULTY
    struct = kinds.structs.get(tag) if isinstance(tag, str | int) else None
    if struct is None:
        faults.add((*path, kinds.key), f"expected {expected}")
        return _FAULTY
    table = {key: item for key, item in value.items() if key != kinds.key}
    converted = convert_table(table, struct, path, faults, dec_hook)
    return _FAULTY if converted is None else converted


def _known_keys(struct: Any) -> str:
    config = struct.__struct_config__
    keys = [field.encode_name for field in msgspec.structs.fields(struct)]
    if config.tag_field is None:
        return f"unknown key; this table has {', '.join(sorted(keys)) or 'none'}"
    known = ", ".join(sorted([*keys, config.tag_field]))
    return f'unknown key; with {config.tag_field} = "{config.tag}" this table has {known}'


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _check_rules(settings: Settings, faults: Faults) -> None:
    """Checks what types cannot express."""
    for plugin_id in settings.plugins:
        at = ("plugins", plugin_id)
        if not is_plugin_id(plugin_id):
            faults.add(at, f"is no plugin id; expected {PLUGIN_ID_RULE}")
    for name in settings.profiles:
        if not is_plugin_id(name):
            faults.add(("profiles", name), "expected a name of a-z, 0-9 and _")
    for name, runtime in settings.runtimes.items():
        if not is_runtime_id(name):
            faults.add(("runtimes", name), f"is no runtime id; expected {RUNTIME_ID_RULE}")
        for key, expected in runtime.faults():
            faults.add(("runtimes", name, key), expected)
    _check_listener(settings.api, "api", faults)
    _check_listener(settings.observe, "observe", faults)


def _check_listener(
    section: ApiSettings | ObserveSettings, name: Literal["api", "observe"], faults: Faults
) -> None:
    _check_listen(section, (name, "listen"), faults)
    if (section.tls_certificate is None) != (section.tls_key is None):
        missing = "tls_key" if section.tls_key is None else "tls_certificate"
        faults.add((name, missing), "is missing; TLS needs tls_certificate and tls_key")
    for key, value in (
        ("tls_certificate", section.tls_certificate),
        ("tls_key", section.tls_key),
    ):
        if value is not None and not _SECRET_NAME.fullmatch(value):
            faults.add((name, key), "expected the name of a file in the secrets directory")
    if not all(map(_HOST.fullmatch, section.hosts)):
        faults.add((name, "hosts"), "expected names such as example.org or example.org:7420")
    if not all(map(_ORIGIN.fullmatch, section.origins)):
        faults.add(
            (name, "origins"),
            "expected origins such as https://example.org, in lower case and without a path",
        )


_SECRET_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,254}")
_HOST = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?")


def listen_addresses(listen: Listen) -> list[str]:
    """Returns the addresses of a `listen` key, one or several."""
    return [listen] if isinstance(listen, str) else listen


def _check_listen(section: ApiSettings | ObserveSettings, path: Path, faults: Faults) -> None:
    addresses = listen_addresses(section.listen)
    if not addresses:
        faults.add(path, "expected at least one address")
    for address in addresses:
        try:
            parsed = parse_listen(address)
        except ValueError as error:
            faults.add(path, str(error))
            continue
        if isinstance(parsed, UnixAddress) and not parsed.path.startswith("/"):
            faults.add(
                path, "expected an absolute path after unix:, which clients elsewhere can use"
            )
        is_open = isinstance(parsed, TcpAddress) and not is_loopback(parsed.host)
        if is_open and not (section.has_tls or section.behind_proxy):
            # Tokens would cross the network in the clear.
            faults.add(
                path,
                "expected a loopback address, or tls_certificate and tls_key beside it, or "
                "behind_proxy = true where a proxy that speaks TLS stands before it",
            )


def _lay_over(
    table: dict[str, Any],
    environ: Mapping[str, str],
    overridden: dict[Path, str],
    faults: Faults,
) -> None:
    """Sets a.b of `table` from `YOI__A__B=value`; records in `overridden` which variable set which key.

    A value is read as TOML where it is TOML, else as a string.
    """
    for variable in sorted(environ):
        if not variable.startswith(ENVIRONMENT_PREFIX):
            continue
        path = tuple(variable[len(ENVIRONMENT_PREFIX) :].lower().split("__"))
        at: Any = table
        for key in path[:-1]:
            at = at.setdefault(key, {}) if is_table(at) else None
        if not is_table(at):
            faults.add_variable(variable, "goes below a key that is no table")
            continue
        at[path[-1]] = _toml_or_text(environ[variable])
        overridden[path] = variable


def is_table(value: Any) -> TypeGuard[dict[str, Any]]:
    """True if a TOML value is a table."""
    return isinstance(value, dict)


def _toml_or_text(text: str) -> Any:
    if "\n" not in text:
        try:
            return tomllib.loads(f"value = {text}")["value"]
        except (ValueError, RecursionError):
            pass
    return text


_PLACE = re.compile(r" \(at line (\d+), column \d+\)$")


def _syntax_fault(file: str, message: str) -> ConfigFault:
    place = _PLACE.search(message)
    return ConfigFault(
        file=file,
        key="",
        # The message's place is our `line`; its text names characters, not values.
        expected=f"is not TOML: {_lower_first(_PLACE.sub('', message))}",
        line=int(place[1]) if place else None,
    )


def _toml_type(value: Any) -> str:
    names: dict[Any, str] = {
        bool: "a boolean",
        int: "an integer",
        float: "a float",
        str: "a string",
        list: "an array",
    }
    return names.get(value.__class__, "a table" if is_table(value) else "a date or time")


def _describe(kind: Any) -> str:
    origin = get_origin(kind)
    if origin is Literal:
        return _one_of(get_args(kind))
    if origin is Annotated:
        return _describe(get_args(kind)[0])
    if origin is list:
        return "an array of " + _describe(get_args(kind)[0])
    if origin in (Union, UnionType):
        return " or ".join(_describe(choice) for choice in get_args(kind) if choice is not NoneType)
    names = {bool: "true or false", int: "an integer", float: "a number", str: "a string"}
    return names.get(kind) or getattr(kind, "__name__", str(kind))


def _one_of(choices: Iterable[object]) -> str:
    return "one of " + ", ".join(f'"{choice}"' for choice in choices)


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]
