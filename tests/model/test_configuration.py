import tomllib
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from yoi_daemon.model.config_faults import Faults
from yoi_daemon.model.configuration import (
    convert_table,
    parse_settings,
)
from yoi_daemon.model.errors import ConfigurationError
from yoi_daemon.model.settings import (
    LocalCompatSettings,
    MemoryStoreSettings,
    PluginSettings,
    Section,
    Settings,
    SqliteStoreSettings,
)

FILE = "yoi-daemon.toml"
MARKER = "hunter2marker"


def faults(text: str, **environ: str) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        parse_settings(text, FILE, environ)
    return str(caught.value).splitlines()


def test_every_fault_is_found_at_once_with_its_line_and_key():
    text = """\
[api]
listen = "nowhere"
lisen = "127.0.0.1:1"

[daemon]
stop_timeout_s = "ten"   # a string
[observe]
enabled = "yes"
window_events = 0

[plugins.Bad]
attempts = 0
[plugins.gen]
grants = ["workers:destroy"]
[plugins.gen.config]
anything = 1
"""
    found = faults(text)
    assert [line.split(": ")[:2] for line in found] == [
        ["yoi-daemon.toml:3", "api.lisen"],
        ["yoi-daemon.toml:6", "daemon.stop_timeout_s"],
        ["yoi-daemon.toml:8", "observe.enabled"],
        ["yoi-daemon.toml:9", "observe.window_events"],
        ["yoi-daemon.toml:12", "plugins.Bad.attempts"],
        ["yoi-daemon.toml:14", "plugins.gen.grants"],
    ]
    assert "unknown key; this table has " in found[0]
    assert "hosts, listen, " in found[0]
    assert "expected `float`, got `str`" in found[1]
    assert 'expected true or false or one of "auto"' in found[2]
    assert "expected `int` >= 1" in found[3]
    assert 'an array of one of "workers:read", "workers:command"' in found[5]


def test_one_bound_alone_may_be_lowered_below_the_defaults_of_others():
    """The smaller one wins; nobody is told of a key they did not write."""
    text = "[plugins.p]\ndispatch_timeout_s = 1\nstart_timeout_s = 1\nqueue_bytes = 2048\nretry_max_s = 0.5\n"
    assert parse_settings(text, FILE, {}).for_plugin("p").dispatch_warn_s == 5


def test_rules_beyond_types_are_checked_at_once_too():
    text = """\
[api]
listen = ["127.0.0.1:1", "127.0.0.1:70000"]
hosts = ["example.org:7420", "::1"]
origins = ["https://example.org/path"]
[observe]
listen = []
[plugins.plugin]
[profiles."Rev-iewer"]
engine = "echo"
"""
    found = faults(text)
    assert [line.split(": ")[:2] for line in found] == [
        ["yoi-daemon.toml:2", "api.listen"],
        ["yoi-daemon.toml:3", "api.hosts"],
        ["yoi-daemon.toml:4", "api.origins"],
        ["yoi-daemon.toml:6", "observe.listen"],
        ["yoi-daemon.toml:7", "plugins.plugin"],
        ["yoi-daemon.toml:8", "profiles.Rev-iewer"],
    ]


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("[api]\nlisten = \n", 2, "is not TOML: invalid value"),
        ("[api]\n\nlisten = 'a\nb'\n", 3, "is not TOML"),
        ("[api", None, "is not TOML"),
        ("[api]\n[api]\n", 2, "is not TOML"),
        ("a = " + "9" * 5000, None, "a number is too long, or nests too deeply"),
        ("a = " + "[" * 5000, None, "a number is too long, or nests too deeply"),
    ],
)
def test_invalid_toml_is_one_fault(text, line, says):
    (found,) = faults(text)
    assert found.startswith(f"{FILE}:{line}: " if line else f"{FILE}: ")
    assert says in found


@pytest.mark.parametrize("separator", ["\u2028", "\x85", "\x0c"])
def test_lines_are_counted_as_an_editor_counts_them(separator):
    """TOML ends a line with LF alone; Python's splitlines knows more."""
    if separator == "\x0c":
        text = 'a = 1  # one\r\n[api]\r\nlisten = "x"\r\n'
        assert faults(text)[0].startswith(f"{FILE}:1: a: ")
        return
    assert faults(f'# one{separator}two\n[api]\nlisten = "x"\n')[0].startswith(f"{FILE}:3: ")


@pytest.mark.parametrize(
    ("text", "key", "line"),
    [
        ("api.listen = 'x'", "api.listen", 1),
        ("\napi = { listen = 'x' }", "api.listen", 2),
        ("[plugins]\ngen.attempts = 0", "plugins.gen.attempts", 2),
        ('["plugins"."gen"]\n"attempts" = 0', "plugins.gen.attempts", 2),
        ("[ plugins . gen ]  # here\n  attempts=0", "plugins.gen.attempts", 2),
        ("plugins = 1", "plugins", 1),
        ("[profiles.reviewer]", "profiles.reviewer.engine", 1),
    ],
)
def test_the_line_of_a_key_however_it_is_written(text, key, line):
    (found,) = faults(text)
    assert found.startswith(f"{FILE}:{line}: {key}: ")


# -- the value is never echoed

KEYS = {
    "api": ["listen", "hosts", "origins"],
    "observe": ["enabled", "listen", "hosts", "heartbeat_s", "window_events", "window_age_s"],
    "store": ["kind"],
    "daemon": ["stop_timeout_s", "log_level"],
    "plugin_host": ["require_enable"],
    "runtime": ["max_workers", "turn_timeout_s"],
    "plugins.gen": [*PluginSettings.__struct_fields__],
    "profiles.reviewer": ["engine"],
}
PLACES = [(table, key) for table, keys in KEYS.items() for key in keys]
VALUES = [f'"{MARKER}"', f'["{MARKER}"]', f'[1, "{MARKER}"]', f'{{ x = "{MARKER}" }}', f'"{MARKER}']


@given(
    wrong=st.lists(st.tuples(st.sampled_from(PLACES), st.sampled_from(VALUES)), min_size=1),
    by_environment=st.booleans(),
)
def test_a_value_is_never_echoed(wrong, by_environment):
    lines: dict[str, list[str]] = {}
    environ: dict[str, str] = {}
    for (table, key), value in dict(wrong).items():
        lines.setdefault(table, []).append(f"{key} = {value}")
        environ["__".join(["YOI", *table.split("."), key]).upper()] = value
    text = "\n".join(f"[{table}]\n" + "\n".join(keys) for table, keys in lines.items())
    told = ""
    try:
        parse_settings("" if by_environment else text, FILE, environ if by_environment else {})
    except ConfigurationError as error:
        told = str(error)
    assert MARKER not in told


@pytest.mark.parametrize(("table", "key"), PLACES)
def test_a_wrong_value_anywhere_is_a_fault_at_its_key(table, key):
    if (table, key) == ("plugins.gen", "config"):
        assert parse_settings('[plugins.gen]\nconfig = { a = "x" }', FILE, {})
        return
    (found,) = faults(f"[{table}]\n{key} = {{ x = '{MARKER}' }}")
    assert found.startswith(f"{FILE}:2: {table}.{key}: expected")
    assert MARKER not in found


@pytest.mark.parametrize("number", ["nan", "inf", "-inf", "-1", "0", "1e300"])
def test_no_impossible_number_of_seconds(number):
    (found,) = faults(f"[observe]\nheartbeat_s = {number}")
    assert "observe.heartbeat_s: expected `float`" in found


# -- the environment


def test_the_environment_overrides_the_file():
    text = '[plugins.github_watch]\nqueue_events = 5\n[api]\nlisten = "127.0.0.1:1"'
    settings = parse_settings(
        text,
        FILE,
        {
            "YOI__PLUGINS__GITHUB_WATCH__QUEUE_EVENTS": "500",
            "YOI__API__LISTEN": '["127.0.0.1:2", "unix:/run/x"]',
            "YOI__OBSERVE__LISTEN": ":0",
            "YOI__OBSERVE__ENABLED": "false",
            "YOI__DAEMON__STOP_TIMEOUT_S": "2.5",
            "YOIX": "1",
            "PATH": "/bin",
        },
    )
    assert settings.plugins["github_watch"].queue_events == 500
    assert settings.api.listen == ["127.0.0.1:2", "unix:/run/x"]
    assert settings.observe.listen == ":0"
    assert settings.observe.enabled is False
    assert settings.daemon.stop_timeout_s == 2.5


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("YOI__PLUGINS__GEN__QUEUE_EVENTS", MARKER),
        ("YOI__PLUGINS__GEN__QUEUE_EVENTS", "9" * 5000),
        ("YOI__PLUGINS__GEN__NO_SUCH_KEY", "1"),
        ("YOI__NO_SUCH_TABLE__KEY", "1"),
        ("YOI__API", "{ listn = 1 }"),
        ("YOI__STORE__KIND__DEEPER", "1"),
        ("YOI__", "1"),
    ],
)
def test_a_fault_of_the_environment_names_the_variable(variable, value):
    found = faults("[store]\nkind = 'memory'\n", **{variable: value})
    assert len(found) == 1
    assert found[0].startswith(f"environment: {variable}: ")
    assert MARKER not in found[0]


def test_faults_of_the_file_and_of_the_environment_come_together():
    found = faults(
        "[store]\nkind = 'memory'\n[api]\nlisen = 1",
        YOI__STORE__KIND__DEEPER="1",
        YOI__DAEMON__LOG_LEVEL="loud",
    )
    assert [line.split(": ")[:2] for line in found] == [
        ["environment", "YOI__DAEMON__LOG_LEVEL"],
        ["environment", "YOI__STORE__KIND__DEEPER"],
        [f"{FILE}:4", "api.lisen"],
    ]


# -- round trip

json_like: st.SearchStrategy[Any] = st.recursive(
    st.booleans() | st.integers(-(2**40), 2**40) | st.text("ab é\"'\\", max_size=5),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=5,
)


@given(st.text(max_size=40))
def test_any_text_gives_settings_or_faults(text):
    with suppress(ConfigurationError):
        assert isinstance(parse_settings(text, FILE, {}), Settings)


@given(st.dictionaries(st.sampled_from("abc"), json_like, max_size=3))
def test_an_authors_table_comes_through_as_it_was(table):
    lines = [f"{key} = {_toml(value)}" for key, value in table.items()]
    text = "[plugins.gen.config]\n" + "\n".join(lines)
    assert tomllib.loads(text)
    assert parse_settings(text, FILE, {}).plugins["gen"].config == table


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return str(value)


@pytest.mark.parametrize(
    ("old", "new"), [("quarantine_min_s", "give_up_min_s"), ("quarantine_max_s", "give_up_max_s")]
)
def test_a_renamed_key_is_refused_with_its_new_name(old, new):
    [fault] = faults(f"[plugins.hello]\n{old} = 5\n")
    assert f":2: plugins.hello.{old}: was renamed to {new}" in fault
    # Of an author's own table we know nothing.
    parse_settings(f"[plugins.hello.config]\n{old} = 5\n", FILE, {})


def test_a_runtime_is_configured_by_its_kind():
    text = '[runtimes.recorded]\nkind = "local_compat"\ndirectory = "/var/lib/other"\n'
    runtime = parse_settings(text, FILE, {}).runtimes["recorded"]
    assert runtime == LocalCompatSettings(directory="/var/lib/other")


@pytest.mark.parametrize(
    ("text", "key", "says"),
    [
        ("[runtimes.backend-internal]\nkind='local_compat'\ndirectory='/x'", "", "daemon's own"),
        ("[runtimes.Bad]\nkind='local_compat'\ndirectory='/x'", "", "runtime id"),
        ("[runtimes.r]\nkind='hunter2marker'\ndirectory='/x'", ".kind", 'one of "local_compat"'),
        ("[runtimes.r]\nkind='local_compat'", ".directory", "is missing"),
        ("[runtimes.r]\nkind='local_compat'\ndirectory='hunter2marker'", ".directory", "absolute"),
        ("[runtimes.r]\nkind=1\ndirectory='/x'", ".kind", 'one of "local_compat"'),
        ("[runtimes.r]\nkind=['hunter2marker']\ndirectory='/x'", ".kind", 'one of "local_compat"'),
        ("[runtimes.r]\ndirectory='/x'", ".kind", 'is missing; expected one of "local_compat"'),
        ("[runtimes]\nr='hunter2marker'", "runtimes.r", "expected a table, got a string"),
        (
            "[runtimes.r]\nkind='local_compat'\ndirectory='/x'\nurl='hunter2marker'",
            ".url",
            'unknown key; with kind = "local_compat" this table has directory, display_name, kind',
        ),
    ],
)
def test_a_runtime_that_cannot_be_is_a_fault(text, key, says):
    (fault,) = faults(text)
    assert says in fault
    assert f"{key}: " in fault
    assert MARKER not in fault


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("", SqliteStoreSettings()),
        ("[store]\nlow_bytes = 2048", SqliteStoreSettings(low_bytes=2048)),
        ("[store]\nkind = 'sqlite'", SqliteStoreSettings()),
        ("[store]\nkind = 'memory'\nlow_bytes = 2048", MemoryStoreSettings(low_bytes=2048)),
    ],
)
def test_a_store_is_configured_by_its_kind_and_is_sqlite_without_one(text, settings):
    assert parse_settings(text, FILE, {}).store == settings


class Small(Section, frozen=True, tag_field="kind", tag="small"):
    size: int


class Named(Section, frozen=True, tag_field="kind", tag="named"):
    name: str = ""


class Whole(Section, frozen=True):
    one: Small | Named = Named()
    many: dict[str, Small | Named] = msgspec.field(default_factory=dict)


def test_a_table_of_several_kinds_is_converted_by_the_kind_that_it_names():
    faults = Faults(FILE)
    table = {"one": {"kind": "small", "size": 1}, "many": {"a": {"kind": "named"}}}
    assert convert_table(table, Whole, (), faults) == Whole(one=Small(size=1), many={"a": Named()})
    assert convert_table({"one": {"name": "x"}}, Whole, (), faults) == Whole(one=Named(name="x"))
    faults.raise_if_any()


def test_a_table_of_several_kinds_takes_the_keys_of_its_own_kind_only():
    text = "[one]\nkind = 'small'\nname = 'hunter2marker'\n[many.a]\nkind = 'hunter2marker'\n"
    faults = Faults(FILE, text)
    assert convert_table(tomllib.loads(text), Whole, (), faults) is None
    with pytest.raises(ConfigurationError) as caught:
        faults.raise_if_any()
    assert [fault.line for fault in caught.value.faults] == [1, 3, 5]
    assert [(fault.key, fault.expected) for fault in caught.value.faults] == [
        ("one.size", "is missing; expected an integer"),
        ("one.name", 'unknown key; with kind = "small" this table has kind, size'),
        ("many.a.kind", 'expected one of "small", "named"'),
    ]


LOOPBACK = "expected a loopback address"


@pytest.mark.parametrize("section", ["api", "observe"])
@pytest.mark.parametrize(
    ("lines", "found"),
    [
        ("listen = '0.0.0.0:1'", ("listen", LOOPBACK)),
        ("listen = '[::]:1'", ("listen", LOOPBACK)),
        ("listen = ['127.0.0.1:1', '192.0.2.1:1']", ("listen", LOOPBACK)),
        ("listen = '0.0.0.0:1'\nbehind_proxy = false", ("listen", LOOPBACK)),
        ("tls_certificate = 'cert'", ("tls_key", "is missing")),
        ("tls_key = 'key'", ("tls_certificate", "is missing")),
        ("tls_certificate = '/cert'\ntls_key = 'k'", ("tls_certificate", "the name of a file")),
        ("tls_certificate = 'c'\ntls_key = '../key'", ("tls_key", "the name of a file")),
        ("tls_certificate = 'c'\ntls_key = '..'", ("tls_key", "the name of a file")),
        ("tls_certificate = 'c'\ntls_key = ''", ("tls_key", "the name of a file")),
    ],
)
def test_a_listener_beyond_this_machine_must_speak_tls(section, lines, found):
    key, says = found
    (told,) = faults(f"[{section}]\n{lines}\n")
    assert f": {section}.{key}: " in told
    assert says in told


@pytest.mark.parametrize(
    "lines",
    [
        "listen = '0.0.0.0:1'\nbehind_proxy = true",
        "listen = '0.0.0.0:1'\ntls_certificate = 'c.pem'\ntls_key = 'key_1'",
        "listen = ['127.0.0.1:1', 'localhost:1', '[::1]:1', 'unix:/run/s']",
    ],
)
def test_where_it_may_listen(lines):
    assert parse_settings(f"[api]\n{lines}\n", "yoi-daemon.toml", {}).api
