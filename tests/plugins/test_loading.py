import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from yoi_daemon.model.directories import Directories
from yoi_daemon.model.redaction import Redaction
from yoi_daemon.plugins.loading.discovery import Found
from yoi_daemon.plugins.loading.loader import Loader
from yoi_daemon.plugins.loading.source import MAX_MESSAGE_BYTES, LoadFailed
from yoi_daemon.sdk import Secret
from yoi_daemon.trusted_files import trust_for

HEAD = "from yoi_daemon.sdk import *\nimport msgspec\n"
START = "@plugin.start\nasync def start(ctx): ...\n"
PLAIN = HEAD + 'plugin = Plugin("gen")\n' + START
MARKER = "hunter2marker"


@pytest.fixture(autouse=True)
def modules_are_let_go():
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("yoi_plugin_"):
            del sys.modules[name]


class Loading:
    """Loads a source as plugin `gen`."""

    def __init__(self, root: Path) -> None:
        self.file = root / "plugins" / "gen.py"
        self.file.parent.mkdir()
        self.config_file = root / "yoi-daemon.toml"
        self.secrets = root / "secrets"
        self.secrets.mkdir()
        directories = Directories(root, root / "state", self.secrets)
        self.redaction = Redaction()
        self.loader = Loader(directories, trust_for(directories), self.redaction)

    def secret(self, name: str, content: bytes) -> None:
        (self.secrets / name).write_bytes(content)
        (self.secrets / name).chmod(0o600)

    def __call__(self, source: str | bytes, table: dict | None = None):
        self.file.write_bytes(source if isinstance(source, bytes) else source.encode())
        return self.load(table)

    def load(self, table: dict | None = None):
        source = self.loader.read(Found("gen", self.file))
        return self.loader.load(source, table or {})

    def fails(self, source: str | bytes, table: dict | None = None) -> LoadFailed:
        before = {name for name in sys.modules if name.startswith("yoi_plugin_")}
        with pytest.raises(LoadFailed) as caught:
            self(source, table)
        # A module that failed leaves nothing behind.
        assert {name for name in sys.modules if name.startswith("yoi_plugin_")} == before
        return caught.value


@pytest.fixture
def load(tmp_path) -> Iterator[Loading]:
    loading = Loading(tmp_path)
    with loading.loader.installed():
        yield loading


def test_a_plugin_is_loaded(load):
    loaded = load(PLAIN)
    assert loaded.plugin.name == "gen"
    assert loaded.file == str(load.file)
    assert len(loaded.digest) == 64
    assert load(PLAIN).digest == loaded.digest
    assert load(PLAIN + "# other\n").digest != loaded.digest


def test_no_bytecode_is_looked_for_or_written(load):
    load(PLAIN)
    assert [path.name for path in load.file.parent.iterdir()] == ["gen.py"]


@pytest.mark.parametrize(
    ("source", "code", "says"),
    [
        ("def f(:\n", "syntax_error", "gen.py:1"),
        ("x = 1\ny = = 2\n", "syntax_error", "gen.py:2"),
        (b"x = '\xff'\n", "syntax_error", ""),
        (b"x = 1\0\n", "syntax_error", ""),
        ("x = " + "-" * 100_000 + "1\n", "syntax_error", "nested too deeply"),
        ("x = " + "+".join(["1"] * 100_000) + "\n", "syntax_error", "nested too deeply"),
        ("import no_such_module_anywhere\n", "import_failed", "gen.py:1: ModuleNotFoundError"),
        ("\n\nraise ValueError('why')\n", "import_failed", "gen.py:3: ValueError: why"),
        ("raise SystemExit(3)\n", "import_failed", "SystemExit"),
        ("raise KeyboardInterrupt\n", "import_failed", "KeyboardInterrupt"),
        ("raise ValueError('\\ud800' + 'x' * 10**6)\n", "import_failed", "\\ud800xxx"),
        ("", "definition_error", 'expected plugin = Plugin("gen")'),
        ("plugin = 5\n", "definition_error", 'expected plugin = Plugin("gen")'),
        ("def __getattr__(name): raise RuntimeError\n", "definition_error", "expected plugin"),
        (HEAD + 'plugin = Plugin("other")\n' + START, "definition_error", "the name of its file"),
        (HEAD + 'plugin = Plugin("gen")\n', "definition_error", "declares nothing"),
        (HEAD + 'plugin = Plugin("gen", api_version=99)\n' + START, "api_version", "version 99"),
        (HEAD + 'plugin = Plugin("gen", api_version=0)\n' + START, "api_version", "version 0"),
        (HEAD + 'plugin = Plugin("gen", api_version="1")\n' + START, "definition_error", "integer"),
        (HEAD + 'plugin = Plugin("gen", config=dict)\n' + START, "definition_error", "Config"),
        (PLAIN + START, "definition_error", "declared twice"),
        (
            HEAD + 'plugin = Plugin("gen")\n@plugin.ingress("push", verify="github")\n'
            "async def push(ctx, event): ...\n",
            "definition_error",
            "needs a field `secret: Secret`",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_a_plugin_says_where_and_why(load, source, code, says):
    failure = load.fails(source)
    assert failure.code == code
    assert failure.message.startswith("plugins/gen.py")
    assert says in failure.message
    failure.message.encode()
    assert len(failure.message.encode()) <= MAX_MESSAGE_BYTES


def test_a_file_that_is_gone_is_unreadable(load):
    with pytest.raises(LoadFailed) as caught:
        load.load()
    assert caught.value.code == "unreadable"


def test_a_module_shadows_nothing(load):
    import json

    load.file = load.file.with_name("json.py")
    load.file.write_text(HEAD + 'plugin = Plugin("json")\n' + START)
    path = list(sys.path)
    load.loader.load(load.loader.read(Found("json", load.file)), {})
    assert sys.modules["json"] is json
    assert sys.path == path


def test_a_package_may_import_its_own_modules(load):
    package = load.file.parent / "gen"
    package.mkdir()
    (package / "__init__.py").write_text(
        HEAD + "from . import names\nfrom .names import NAME\nplugin = Plugin(NAME)\n" + START
    )
    (package / "names.py").write_text('NAME = "gen"\n')
    load.file = package / "__init__.py"
    loaded = load.load()
    assert loaded.plugin.name == "gen"
    assert loaded.folder == str(package)
    assert any(name.endswith(".names") for name in sys.modules if name.startswith("yoi_plugin_"))
    (package / "names.py").write_text('NAME = "gen"  # changed\n')
    assert load.load().digest != loaded.digest
    load.loader.forget(loaded)
    assert not [name for name in sys.modules if name.startswith(loaded.module)]


def test_a_new_version_stands_beside_the_old(load):
    """Annotations are looked up in `sys.modules`: each version finds its own."""
    source = HEAD + "class S(Config):\n    number: 'int' = {}\nplugin = Plugin('gen', config=S)\n"
    first = load(source.format(1) + START)
    second = load(source.format(2) + START)
    assert (first.config.number, second.config.number) == (1, 2)
    assert sys.modules[first.module].S is type(first.config)
    assert sys.modules[second.module].S is type(second.config)
    load.fails("raise ValueError\n")
    assert sys.modules[second.module].S is type(second.config)
    load.loader.forget(first)
    assert first.module not in sys.modules
    assert second.module in sys.modules


# -- settings

SETTINGS = (
    HEAD
    + """
class Inner(msgspec.Struct, frozen=True):
    depth: int
class Settings(Config):
    repo: str
    secret: Secret
    more: list[Secret] = []
    inner: Inner | None = None
    table: Inner = Inner(1)
plugin = Plugin("gen", config=Settings)
"""
    + START
)


def test_settings_are_decoded_and_secrets_read(load):
    load.secret("one", b"value one\n")
    load.secret("two", b"\r\n value two \n\n")
    config = load(
        SETTINGS,
        {"repo": "a/b", "secret": "one", "more": ["two"], "inner": {"depth": 2}},
    ).config
    assert config.repo == "a/b"
    assert config.secret == Secret("value one")
    assert config.more == [Secret(" value two ")]
    assert config.inner.depth == 2


def test_every_fault_of_the_settings_is_told_with_its_line(load):
    load.config_file.write_text(
        f'[plugins.gen.config]\nrepo = 5\nsecret = "{MARKER}"\nrepos = 1\n[plugins.gen.config.table]\ndepth = "{MARKER}"\n'
    )
    failure = load.fails(
        SETTINGS, {"repo": 5, "secret": MARKER, "repos": 1, "table": {"depth": MARKER}}
    )
    assert failure.code == "configuration_error"
    lines = failure.message.splitlines()
    assert [line.split(": ")[0].rpartition(":")[2] for line in lines] == ["2", "3", "4", "6"]
    assert [line.split(": ")[1] for line in lines] == [
        f"plugins.gen.config.{key}" for key in ("repo", "secret", "repos", "table.depth")
    ]
    assert MARKER not in failure.message


@pytest.mark.parametrize(
    "name", ["", "../up", "/etc/passwd", ".hidden", 5, ["one"], "missing", "a\0b"]
)
def test_a_secret_is_a_file_in_the_secrets_directory(load, name):
    (load.secrets.parent / "up").write_text("x")
    (load.secrets / ".hidden").write_text("x")
    failure = load.fails(SETTINGS, {"repo": "a", "secret": name})
    assert failure.code == "configuration_error"
    assert "plugins.gen.config.secret: " in failure.message


@pytest.mark.parametrize(
    ("content", "says"), [(b"", "is empty"), (b"\n\n", "is empty"), (b"\xff", "cannot be read")]
)
def test_a_secret_that_holds_nothing_is_a_fault(load, content, says):
    load.secret("one", content)
    assert says in load.fails(SETTINGS, {"repo": "a", "secret": "one"}).message


def test_a_secret_that_others_may_read_is_a_fault(load):
    load.secret("one", b"value")
    (load.secrets / "one").chmod(0o644)
    message = load.fails(SETTINGS, {"repo": "a", "secret": "one"}).message
    assert "the secrets directory: may be read by others than the daemon; chmod 600" in message
    load.secrets.chmod(0o700)  # nobody comes so far
    assert load(SETTINGS, {"repo": "a", "secret": "one"}).config.secret == Secret("value")


def test_a_secret_that_lies_elsewhere_is_a_fault(load):
    (load.secrets.parent / "elsewhere").write_bytes(b"value")
    (load.secrets / "one").symlink_to("../elsewhere")
    assert "leads out" in load.fails(SETTINGS, {"repo": "a", "secret": "one"}).message


def test_the_logs_are_told_of_secrets(load):
    load.secret("one", b"value one\n")
    load(SETTINGS, {"repo": "a", "secret": "one"})
    assert load.redaction.apply("has value one in it") == "has [redacted] in it"


@pytest.mark.parametrize(
    "settings",
    [
        "class S(Config):\n    x: __import__('pathlib').Path\n",
        "class A(msgspec.Struct):\n    a: int\nclass B(msgspec.Struct):\n    b: int\n"
        "class S(Config):\n    x: A | B\n",
        "class S(Config):\n    x: str\n    def __post_init__(self): raise KeyError(self.x)\n",
        "class S(Config):\n    x: 'NoSuchType'\n",
    ],
)
def test_settings_no_toml_can_give_are_the_plugins_fault_alone(load, settings):
    """Whatever an author's type does, it fails this one plugin, and tells no value."""
    failure = load.fails(
        HEAD + settings + 'plugin = Plugin("gen", config=S)\n' + START, {"x": MARKER}
    )
    assert failure.code in ("definition_error", "configuration_error", "import_failed")
    assert MARKER not in failure.message


def test_what_an_authors_own_check_says_is_told(load):
    source = HEAD + (
        "class S(Config):\n    low: int = 5\n    high: int = 1\n"
        "    def __post_init__(self):\n"
        "        if self.low > self.high: raise ValueError('low must be at most high')\n"
        'plugin = Plugin("gen", config=S)\n'
    )
    failure = load.fails(source + START)
    assert failure.code == "configuration_error"
    assert "plugins.gen.config: low must be at most high" in failure.message
