"""What `model.settings` declares reloadable is what a reload takes, key by key."""

import json
import logging
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

import msgspec
import pytest

from yoi_daemon.daemon.opening import open_daemon
from yoi_daemon.daemon.reloading import reload
from yoi_daemon.daemon.settings_file import read_settings
from yoi_daemon.front.tokens import Tokens
from yoi_daemon.model.configuration import kinds_of
from yoi_daemon.model.directories import Directories
from yoi_daemon.model.settings import (
    RELOADABLE,
    KeyPath,
    Section,
    Settings,
    is_reloadable,
)

PLUGIN = """
from yoi_daemon.sdk import Config, Plugin
class Wanted(Config):
    x: int = 0
plugin = Plugin("gen", config=Wanted)
@plugin.ingress("take")
async def take(ctx, event): ...
"""
NAMES = {"plugins": "gen", "runtimes": "one", "profiles": "p"}
"""The one entry of each table of tables."""
ONE_VALUE = {
    ("plugins", "gen", "isolation"),
}
"""Keys that have no other value yet."""
CHANGED: dict[KeyPath, Any] = {
    ("api", "listen"): "127.0.0.1:7777",
    ("api", "hosts"): ["example.org"],
    ("api", "origins"): ["https://example.org"],
    ("observe", "listen"): "127.0.0.1:7778",
    ("observe", "hosts"): ["example.org"],
    ("observe", "origins"): ["https://example.org"],
    ("observe", "enabled"): False,
    ("store", "kind"): "sqlite",
    ("plugins", "gen", "config"): {"x": 1},
    ("plugins", "gen", "enabled"): True,
    ("plugins", "gen", "grants"): ["workers:read"],
}
"""Where a value that fits does not follow from the type."""


def keys(section: type[Section] = Settings, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    for field in msgspec.structs.fields(section):
        at, kind = (*path, field.name), field.type
        if get_origin(kind) is dict and field.name in NAMES:
            at, kind = (*at, NAMES[field.name]), get_args(kind)[1]
        if (kinds := kinds_of(kind)) is not None:
            if len(kinds.structs) > 1:
                yield (*at, kinds.key), CHANGED[*at, kinds.key]
            # One that every kind has: a table keeps its keys when its kind changes.
            yield from keys(next(iter(kinds.structs.values())), at)
        elif isinstance(kind, type) and issubclass(kind, Section):
            yield from keys(kind, at)
        elif at not in ONE_VALUE and not field.name.startswith("tls_"):
            yield at, CHANGED[at] if at in CHANGED else another(kind, field.default)


def another(kind: Any, default: Any) -> Any:
    if isinstance(default, bool):
        return not default
    if isinstance(default, int | float):
        return default + 1
    if get_origin(kind) is Literal:
        return next(value for value in get_args(kind) if value != default)
    return "other"


KEYS = dict(keys())


def write(directories: Directories, changed: KeyPath = (), value: Any = None) -> None:
    tables: dict[KeyPath, dict[str, Any]] = {
        ("store",): {"kind": "memory"},
        ("runtimes", "one"): {"kind": "local_compat", "directory": str(directories.state)},
        ("profiles", "p"): {"engine": "echo"},
        ("plugins", "gen"): {},
    }
    if changed:
        given = str(directories.config) if changed[-1] == "directory" else value
        tables.setdefault(changed[:-1], {})[changed[-1]] = given
    lines = [
        line
        for path, table in tables.items()
        for line in (f"[{'.'.join(path)}]", *(f"{key} = {toml(table[key])}" for key in table))
    ]
    directories.config_file.write_text("\n".join(lines))


def toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {toml(item)}" for key, item in value.items()) + "}"
    return json.dumps(value)


def at(settings: Any, path: KeyPath) -> Any:
    for name in path:
        if isinstance(settings, msgspec.Struct) and name == settings.__struct_config__.tag_field:
            return settings.__struct_config__.tag
        settings = settings[name] if isinstance(settings, dict) else getattr(settings, name)
    return settings


@pytest.mark.parametrize("path", KEYS, ids=".".join)
async def test_a_reload_takes_the_reloadable_keys_and_names_the_section_of_any_other(
    tmp_path, path
):
    directories = Directories(tmp_path / "config", tmp_path / "state", tmp_path / "secrets")
    directories.plugins.mkdir(parents=True)
    directories.state.mkdir()
    (directories.plugins / "gen.py").write_text(PLUGIN)
    write(directories)
    before = read_settings(directories, {})
    async with open_daemon(directories, before, Tokens("yoi_t"), {}) as daemon:
        await daemon.plugins.wait_settled()
        write(directories, path, KEYS[path])
        read = read_settings(directories, {})
        assert at(read, path) != at(before, path), "the control: it is another value"
        needs_restart = (await reload(daemon)).needs_restart
        if is_reloadable(path):
            assert needs_restart == ()
            assert daemon.settings == read
            in_use = {name: one.installed.settings for name, one in daemon.plugins.services.items()}
            enabled = {"gen": read.plugins["gen"]} if read.is_enabled("gen") else {}
            assert in_use == enabled
            assert logging.getLogger().level == getattr(logging, read.daemon.log_level.upper())
            summary = daemon.registry.runtime("one").summary()
            assert summary.display_name == (read.runtimes["one"].display_name or "one")
        else:
            assert needs_restart == (path[0],)
            assert daemon.settings == before
        await daemon.plugins.shutdown(budget_s=1)


def test_each_reloadable_entry_is_a_key_or_a_table():
    tables = {path[:length] for path in KEYS for length in range(1, len(path) + 1)}
    assert tables >= RELOADABLE
