"""Each wrong thing at the start: one clear message, the right exit code, and the others go on."""

import socket
import subprocess
import sys

import pytest

WITHOUT_EXTRA = """
import sys
sys.modules["trio_websocket"] = None
from yoi_daemon.cli.main import main
main()
"""


def run_to_the_end(config, state, *command: str, code: str | None = None, **environ: str):
    program = [sys.executable, "-c", code] if code else [sys.executable, "-m", "yoi_daemon"]
    return subprocess.run(
        [*program, *command, "--config", config, "--state", state],
        env={"PATH": "/usr/bin:/bin", "HOME": str(state)} | environ,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@pytest.mark.parametrize(
    ("toml", "says"),
    [
        ("[api\nlisten = 3", ["yoi-daemon.toml:1"]),
        ("[api]\nlisten = 5\nport = 1\n[nope]\n", [":2: api.listen", ":3: api.port", ":4: nope"]),
        ("[daemon]\nstop_timeout_s = -1", [":2: daemon.stop_timeout_s"]),
        ("[plugins.worker]\n", [":1: plugins.worker"]),
        ("[plugins.a]\nisolation = 'hunter2'", ["inline"]),
        ("[api]\nlisten = '0.0.0.0:80'", [":2: api.listen", "loopback"]),
    ],
)
def test_a_bad_configuration_is_told_whole_and_ends_78(tmp_path, config, toml, says):
    (config / "yoi-daemon.toml").write_text(toml)
    ended = run_to_the_end(config, tmp_path / "state", "run")
    assert ended.returncode == 78
    assert all(text in ended.stderr for text in says), ended.stderr
    assert "Traceback" not in ended.stderr
    assert "hunter2" not in ended.stderr


@pytest.mark.parametrize("at", ["plugins", ".", "plugins/gen.py"])
def test_what_others_could_have_written_is_not_run(tmp_path, config, start_daemon, at):
    mark = tmp_path / "ran"
    (config / "plugins" / "gen.py").write_text(f"open({str(mark)!r}, 'w').close()\n")
    (config / at).chmod(0o777)
    if at == "plugins/gen.py":
        page = start_daemon(config).request("GET", "/api/plugins/gen")[1]
        assert (page["state"], page["reason"]["code"]) == ("failed", "not_trusted")
        assert "plugins/gen.py: may be written by everyone; chmod o-w" in page["reason"]["message"]
    else:
        listen = {"YOI__API__LISTEN": "127.0.0.1:0", "YOI__OBSERVE__LISTEN": "127.0.0.1:0"}
        ended = run_to_the_end(config, tmp_path / "state", "run", **listen)
        assert ended.returncode == 78
        assert f"{(config / at).resolve()}: may be written by everyone; chmod o-w" in ended.stderr
        assert "Traceback" not in ended.stderr
    assert not mark.exists()


def test_a_port_in_use_is_said(tmp_path, config):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        ended = run_to_the_end(config, tmp_path / "state", "run", YOI__API__LISTEN=address)
    assert ended.returncode == 78
    assert f"{address} is in use" in ended.stderr


def test_a_second_daemon_on_the_same_state_is_refused(start_daemon, tmp_path, config):
    start_daemon(config, tmp_path / "state")
    ended = run_to_the_end(config, tmp_path / "state", "run")
    assert ended.returncode == 78
    assert "another daemon runs on this state directory" in ended.stderr


def test_no_daemon_is_69(tmp_path, config):
    ended = run_to_the_end(config, tmp_path / "state", "status")
    assert ended.returncode == 69
    assert "yoi-daemon run" in ended.stderr


def test_a_broken_plugin_does_not_stop_the_others(start_daemon, config):
    plugins = config / "plugins"
    good = 'from yoi_daemon.sdk import Plugin\nplugin = Plugin("good")\n@plugin.ingress("go")\nasync def go(ctx, event): ...\n'
    (plugins / "good.py").write_text(good)
    (plugins / "typo.py").write_text("def (:\n")
    (plugins / "exits.py").write_text("import sys\nsys.exit(3)\n")
    (plugins / "odd-name.py").write_text("")
    (plugins / "unset.py").write_text(good.replace("good", "unset") + "x = 1 / 0\n")
    daemon = start_daemon(config)
    _, page = daemon.request("GET", "/api/plugins")
    told = {one["plugin_id"]: (one["state"], one["reason"]["code"]) for one in page["items"]}
    assert told["exits"] == ("failed", "import_failed")
    assert told["typo"] == ("failed", "syntax_error")
    assert told["unset"] == ("failed", "import_failed")
    assert told["good"][0] in ("starting", "running")
    assert daemon.request("POST", "/api/plugins/good/ingress/go", 1)[0] == 202
    status, problem = daemon.request("POST", "/api/plugins/typo/ingress/go", 1)
    assert (status, problem["code"]) == (503, "service_failed")
    assert "plugins/typo.py:1" in problem["detail"]
    _, status_page = daemon.request("GET", "/api/status")
    grave = [one["code"] for one in status_page["diagnostics"] if one["severity"] != "info"]
    assert grave == ["bad_plugin_file"]
    store = status_page["store"]
    assert (store["kind"], store["durable"], store["note"]) == ("sqlite", True, "")
    assert store["commits"] > 0
    assert store["bytes"] > 0


def test_a_store_in_memory_says_what_it_does_not_promise(start_daemon, config):
    (config / "yoi-daemon.toml").write_text('[store]\nkind = "memory"\n')
    _, page = start_daemon(config).request("GET", "/api/status")
    assert (page["store"]["kind"], page["store"]["durable"]) == ("memory", False)
    assert "lost" in page["store"]["note"]


def test_without_the_extra_everything_but_the_stream_works(tmp_path, config):
    (config / "yoi-daemon.toml").write_text("[observe]\nenabled = true\n")
    ended = run_to_the_end(config, tmp_path / "state", "run", code=WITHOUT_EXTRA)
    assert ended.returncode == 78
    assert "pip install 'yoi-daemon[observe]'" in ended.stderr
    (config / "yoi-daemon.toml").write_text("")
    command = [sys.executable, "-c", WITHOUT_EXTRA, "run", "--config", config]
    with subprocess.Popen(
        [*command, "--state", tmp_path / "state"],
        env={"PATH": "/usr/bin:/bin", "YOI__API__LISTEN": "127.0.0.1:0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout
        line = process.stdout.readline()
        process.terminate()
        assert line.rstrip().endswith("observe=off")
        assert process.wait(10) == 0
