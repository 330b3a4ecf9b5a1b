import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from yoi_daemon.cli.main import COMMANDS, cli
from yoi_daemon.cli.options import Client


def commands(group: click.Command, *path: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, group
    if isinstance(group, click.Group):
        context = click.Context(group)
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            assert command is not None
            yield from commands(command, *path, name)


ALL = dict(commands(cli))


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_every_command_explains_itself(run: Any, path: tuple[str, ...]) -> None:
    outcome = run(*path, "--help")
    assert outcome.code == 0
    assert outcome.out.startswith(f"Usage: {' '.join(('yoi-daemon', *path))}")
    assert outcome.err == ""


@pytest.mark.parametrize(
    "path",
    [path for path, command in ALL.items() if not isinstance(command, click.Group)],
    ids=" ".join,
)
def test_every_command_takes_the_common_options(path: tuple[str, ...]) -> None:
    taken = {option for parameter in ALL[path].params for option in parameter.opts}
    assert {"--config", "--state", "--json"} <= taken


def test_the_list_of_commands_says_what_they_say_themselves() -> None:
    for name, lazy in COMMANDS.items():
        own = (ALL[name,].help or "").split("\n\n")[0].replace("\n", " ")
        assert own == lazy.summary


def test_help_and_a_usage_error_load_nothing_heavy() -> None:
    script = (
        "import sys\n"
        "from yoi_daemon.cli.main import run_command\n"
        "assert run_command(['--help']) == 0\n"
        "assert run_command(['no-such']) == 2\n"
        "heavy = {'trio', 'rich', 'httpx2', 'quart', 'hypercorn', 'structlog'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, cwd=root)


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("no-such",),
        ("status", "--no-such"),
        ("ingress", "gen"),
        ("status", "--url", "http://h:1"),
        ("status", "--token-file", "t"),
        ("status", "--url", "ftp://h", "--token-file", "t"),
        ("status", "--url", "http://h:1", "--token-file", "t", "--state", "s"),
        ("ingress", "gen", "tick", "--data", "{"),
        ("ingress", "gen", "tick", "--data", "NaN"),
        ("ingress", "gen", "tick", "--data", "@/no/such/file"),
        ("worker", "show", "/w"),
        ("worker", "show", "r/w/x"),
        ("worker", "send", "w"),
        ("worker", "send", "w", "text", "--when-busy", "never"),
        ("worker", "transcript", "w", "--limit", "0"),
        ("plugin", "new", "Bad"),
        ("plugin", "start"),
        ("plugin", "start", "gen", "--timeout", "0"),
        ("ingress", "gen", "tick", "--batch", "-"),
        ("ingress", "gen", "--data", "1", "--batch", "-"),
        ("ingress", "gen", "--batch", "file"),
        ("ingress", "gen", "--batch", "@/no/such/file"),
        ("dead", "show", "gen"),
        ("dead", "redeliver", "gen"),
        ("dead", "redeliver", "gen", "evt", "--all"),
        ("dead", "discard", "gen", "--yes"),
        ("dead", "discard", "gen", "evt"),
        ("tool", "gen"),
        ("tool", "gen", "say", "--list"),
        ("tool", "gen", "say", "--data", "{"),
        ("tool", "--data", "{}"),
        ("events", "--worker", "w", "--plugin", "p"),
    ],
    ids=" ".join,
)
def test_usage(run: Any, arguments: tuple[str, ...]) -> None:
    outcome = run(*arguments)
    assert outcome.code == 2
    assert outcome.out == ""
    assert "Usage: yoi-daemon" in outcome.err
    assert "Traceback" not in outcome.err


CLIENT_COMMANDS = [
    ("status",),
    ("reload",),
    ("ingress", "gen", "tick"),
    ("ingress", "gen", "--batch", "@tests/data/github_push.json"),
    ("plugin", "list"),
    ("plugin", "show", "gen"),
    ("plugin", "start", "gen"),
    ("plugin", "stop", "gen"),
    ("plugin", "restart", "gen"),
    ("plugin", "reload", "gen"),
    ("dead", "list", "gen"),
    ("dead", "show", "gen", "evt"),
    ("dead", "redeliver", "gen", "--all"),
    ("dead", "redeliver", "gen", "evt"),
    ("dead", "discard", "gen", "evt", "--yes"),
    ("tool",),
    ("tool", "gen", "say"),
    ("worker", "list"),
    ("worker", "show", "w"),
    ("worker", "create"),
    ("worker", "send", "w", "text"),
    ("worker", "transcript", "w"),
]


EVENTS = pytest.param(
    ("events",),
    id="events",
    marks=pytest.mark.skipif(
        importlib.util.find_spec("trio_websocket") is None, reason="the extra is absent"
    ),
)


@pytest.mark.parametrize("arguments", [*CLIENT_COMMANDS, EVENTS], ids=" ".join)
def test_no_daemon(run: Any, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    outcome = run(*arguments, "--state", str(tmp_path))
    assert outcome.code == 69
    assert outcome.out == ""
    assert outcome.err.startswith("yoi-daemon: no daemon is running")
    assert outcome.err.count("\n") == 1


@pytest.mark.parametrize("arguments", [*CLIENT_COMMANDS, EVENTS], ids=" ".join)
def test_a_stale_file(run: Any, daemon: Any, arguments: tuple[str, ...]) -> None:
    daemon.write(pid=4_000_000)
    outcome = run(*arguments, "--state", str(daemon.state))
    assert outcome.code == 69
    assert "which is gone" in outcome.err
    assert daemon.requests == []


@pytest.mark.parametrize("arguments", CLIENT_COMMANDS, ids=" ".join)
def test_a_wrong_token(run: Any, daemon: Any, arguments: tuple[str, ...]) -> None:
    class Refuse(dict[str, Any]):
        def get(self, key: str, default: Any = None) -> Any:
            return 401, {"code": "unauthenticated", "detail": "The token is not known."}

    daemon.answers = Refuse()
    outcome = run(*arguments, "--state", str(daemon.state))
    assert outcome.code == 77
    assert outcome.out == ""
    assert outcome.err.startswith("yoi-daemon: unauthenticated: The token is not known.")
    assert "--token-file" in outcome.err
    assert daemon.requests[0].token == "Bearer tok"


def test_an_error_is_json_where_json_was_asked_for(run: Any, daemon: Any) -> None:
    daemon.answers["GET /api/plugins/nobody"] = (
        404,
        {"code": "plugin_not_found", "detail": "No plugin nobody.", "request_id": "req_1"},
    )
    outcome = run("plugin", "show", "nobody", "--json", "--state", str(daemon.state))
    assert outcome.code == 1
    assert outcome.out == ""
    assert outcome._replace(out=outcome.err).json == {
        "error": {
            "exit_code": 1,
            "code": "plugin_not_found",
            "message": "No plugin nobody.",
            "request_id": "req_1",
        }
    }


def test_a_daemon_by_address(run: Any, daemon: Any, tmp_path: Path) -> None:
    daemon.answers["GET /api/plugins"] = (200, {"items": []})
    token = tmp_path / "elsewhere"
    token.write_text("other")
    outcome = run("plugin", "list", "--url", daemon.url, "--token-file", str(token))
    assert outcome.code == 0
    assert daemon.requests[0].token == "Bearer other"

    outcome = run("plugin", "list", "--url", daemon.url, "--token-file", str(tmp_path / "none"))
    assert outcome.code == 77
    assert "there is no token in" in outcome.err


def test_a_daemons_text_cannot_command_a_terminal_in_an_error_either(run: Any, daemon: Any) -> None:
    daemon.answers["GET /api/status"] = (409, {"code": "invalid_state", "detail": "bo\x1b[2Jom"})
    assert run("status", "--state", str(daemon.state)).err == (
        "yoi-daemon: invalid_state: bo\\x1b[2Jom\n"
    )


def test_ctrl_c_is_quiet_also_where_a_nursery_wraps_it(
    run: Any, daemon: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: Client) -> None:
        raise BaseExceptionGroup("nursery", [KeyboardInterrupt()])

    monkeypatch.setattr(Client, "location", interrupted)
    assert run("status") == (130, "", "")

    def failing(self: Client) -> None:
        raise BaseExceptionGroup("nursery", [KeyboardInterrupt(), ZeroDivisionError()])

    monkeypatch.setattr(Client, "location", failing)
    with pytest.raises(BaseExceptionGroup):
        run("status")
