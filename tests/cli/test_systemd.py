import configparser
import sys
from pathlib import Path
from typing import Any

import pytest

from yoi_daemon.cli.systemd import HIDDEN, UNITS, make_units, refuse_hidden
from yoi_daemon.model.addresses import parse_listen
from yoi_daemon.model.errors import NotAllowed
from yoi_daemon.model.settings import Settings

CONFIG = Path(__file__).parents[2] / "config" / "systemd"


def parse(text: str) -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(text)
    return parser


def test_the_units_are_those_in_config_but_for_the_interpreter() -> None:
    for name, text in make_units().items():
        shown = (CONFIG / name).read_text().splitlines()
        differ = [(a, b) for a, b in zip(shown, text.splitlines(), strict=True) if a != b]
        starts = ("ExecStart=/opt/yoi-daemon/bin/python -m yoi_daemon run",)
        expected = [(*starts, f"ExecStart={sys.executable} -m yoi_daemon run")]
        assert differ == (expected if name == "yoi-daemon.service" else [])


def test_the_sockets_are_the_listeners_defaults() -> None:
    listens = [
        line.partition("=")[2]
        for line in make_units()["yoi-daemon.socket"].splitlines()
        if line.startswith("ListenStream=")
    ]
    settings = Settings()
    defaults = [str(settings.api.listen), str(settings.observe.listen)]
    assert [parse_listen(one) for one in listens] == [parse_listen(one) for one in defaults]


def test_the_time_to_stop_is_over_the_daemons_own() -> None:
    service = parse(make_units()["yoi-daemon.service"])["Service"]
    assert float(service["TimeoutStopSec"]) > Settings().daemon.stop_timeout_s + 5


def test_print_writes_both(run: Any) -> None:
    outcome = run("systemd", "print")
    assert outcome.code == 0
    assert [f"# /etc/systemd/system/{name}" in outcome.out for name in UNITS] == [True, True]
    assert run("systemd", "print", "--json").json == make_units()


@pytest.mark.parametrize("place", HIDDEN)
def test_what_the_sandbox_hides_is_refused_with_what_to_do(place: str) -> None:
    with pytest.raises(NotAllowed, match="venv /opt/yoi-daemon") as caught:
        refuse_hidden(["/usr/bin/python3", f"{place}/me/venv/bin/python"])
    assert f"under {place}" in str(caught.value)
    refuse_hidden(["/opt/yoi-daemon/bin/python", "/homely/python", "/usr"])


def test_a_link_into_a_home_is_refused_too(tmp_path: Path, monkeypatch: Any) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "python").touch()
    (tmp_path / "python").symlink_to(home / "python")
    monkeypatch.setattr("yoi_daemon.cli.systemd.HIDDEN", (str(home),))
    with pytest.raises(NotAllowed):
        refuse_hidden([str(tmp_path / "python")])


def test_install_refuses_before_it_writes(run: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("yoi_daemon.cli.systemd.HIDDEN", ("/home",))
    monkeypatch.setattr(sys, "prefix", "/home/somebody/venv")
    outcome = run("systemd", "install", "--to", str(tmp_path))
    assert outcome.code == 77
    assert "/home/somebody/venv is under /home" in outcome.err
    assert list(tmp_path.iterdir()) == []


def test_install_writes_and_says_what_is_next(run: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("yoi_daemon.cli.systemd.HIDDEN", ())
    outcome = run("systemd", "install", "--to", str(tmp_path))
    assert outcome.code == 0, outcome.err
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(UNITS)
    assert "systemctl enable --now" in outcome.out
    outcome = run("systemd", "install", "--to", str(tmp_path / "none"))
    assert outcome.code == 77
    assert "run this as root" in outcome.err


def test_an_odd_path_stays_one_word(monkeypatch: Any) -> None:
    monkeypatch.setattr(sys, "executable", '/opt/a "b" 100%/python')
    service = make_units()["yoi-daemon.service"]
    assert '\nExecStart="/opt/a \\"b\\" 100%%/python" -m yoi_daemon run\n' in service
