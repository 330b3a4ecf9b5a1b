import pytest

from yoi_daemon.daemon.checking import check
from yoi_daemon.model.directories import Directories

GOOD = """\
from yoi_daemon.sdk import Config, Plugin
class Settings(Config):
    number: int = 0
plugin = Plugin("{}", config=Settings)
@plugin.start
async def start(ctx): ...
"""
MARKER = "hunter2marker"


@pytest.fixture
def directories(tmp_path) -> Directories:
    (tmp_path / "plugins").mkdir()
    return Directories(tmp_path, tmp_path / "state", tmp_path / "secrets")


def write(directories: Directories, name: str, source: str) -> None:
    (directories.plugins / name).write_text(source)


def codes(report) -> dict[str, str | None]:
    return {plugin.plugin_id: plugin.code for plugin in report.plugins}


def test_nothing_at_all_is_good(tmp_path):
    found = Directories(tmp_path / "c", tmp_path / "s", tmp_path / "x")
    report = check(found, {}, import_modules=True)
    assert report.is_good
    assert report.plugins == ()


@pytest.mark.parametrize("imports", [False, True])
def test_everything_is_told_at_once(directories, imports):
    write(directories, "good.py", GOOD.format("good"))
    write(directories, "syntax.py", "def f(:\n")
    write(directories, "broken.py", "raise ValueError('no')\n")
    write(directories, "misnamed.py", GOOD.format("other"))
    write(directories, "Bad-Name.py", "")
    directories.config_file.write_text(
        "[plugins.good.config]\nnumber = 1\n[plugins.missing]\nattempts = 1\n"
        "[plugins.gone]\nenabled = false\n"
    )
    report = check(directories, {}, import_modules=imports)
    assert not report.is_good
    assert codes(report) == {
        "good": None,
        "syntax": "syntax_error",
        "broken": "import_failed" if imports else None,
        "misnamed": "definition_error" if imports else None,
    }
    told = "\n".join(map(str, report.faults))
    assert "Bad-Name.py" in told
    assert "plugins.missing" in told
    assert "plugins.gone" not in told


def test_settings_are_held_against_the_authors_type_when_it_is_imported(directories):
    write(directories, "good.py", GOOD.format("good"))
    directories.config_file.write_text(f'[plugins.good.config]\nnumber = "{MARKER}"\n')
    assert check(directories, {}, import_modules=False).is_good
    report = check(directories, {}, import_modules=True)
    (plugin,) = report.plugins
    assert plugin.code == "configuration_error"
    assert ":2: plugins.good.config.number" in str(plugin.message)
    assert MARKER not in str(report)


def test_a_broken_configuration_does_not_hide_broken_modules(directories):
    write(directories, "syntax.py", "def f(:\n")
    write(directories, "effect.py", "raise SystemExit('must not be run')\n")
    directories.config_file.write_text("[api]\nlisten = 5\nlisten_too = 6\n")
    report = check(directories, {}, import_modules=True)
    assert len(report.faults) == 2
    assert codes(report) == {"syntax": "syntax_error", "effect": None}


def test_a_disabled_module_is_not_run(directories):
    write(directories, "effect.py", "raise SystemExit('must not be run')\n")
    directories.config_file.write_text("[plugins.effect]\nenabled = false\n")
    report = check(directories, {}, import_modules=True)
    assert report.is_good
    assert [plugin.enabled for plugin in report.plugins] == [False]


def test_a_plugin_directory_that_is_none_is_a_fault(tmp_path):
    (tmp_path / "plugins").write_text("")
    found = Directories(tmp_path, tmp_path / "s", tmp_path / "x")
    report = check(found, {}, import_modules=True)
    assert not report.is_good
    assert "cannot be read" in str(report.faults[0])


def test_a_module_that_never_returns_is_given_up_and_the_others_are_looked_at(directories):
    write(directories, "endless.py", "import threading\nthreading.Event().wait()\n")
    write(directories, "good.py", GOOD.format("good"))
    report = check(directories, {}, import_modules=True, import_timeout_s=0.2)
    assert codes(report) == {"endless": "import_timeout", "good": None}
    assert "took over 0.2 s" in str(report.plugins[0].message)


def test_what_a_group_may_write_is_a_warning(directories):
    write(directories, "good.py", GOOD.format("good"))
    (directories.plugins / "good.py").chmod(0o664)
    report = check(directories, {}, import_modules=False)
    assert report.is_good
    (warning,) = report.warnings
    assert warning.startswith(f"{directories.plugins / 'good.py'}: may be written by its group")
