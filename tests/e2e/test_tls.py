"""TLS on both listeners of the real program, and its own client on the other side."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("trio_websocket")

pytestmark = pytest.mark.prove

FILES = Path(__file__).parents[1] / "data" / "tls"
SETTINGS = """
[api]
listen = "127.0.0.1:0"
tls_certificate = "cert"
tls_key = "key"
[observe]
listen = "127.0.0.1:0"
tls_certificate = "cert"
tls_key = "key"
"""


def _install(state: Path, name: str) -> None:
    secrets = state / "secrets"
    secrets.mkdir(parents=True, exist_ok=True, mode=0o700)
    shutil.copy(FILES / f"{name}.pem", secrets / "cert")
    shutil.copy(FILES / f"{name}.key", secrets / "key")


def _cli(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "yoi_daemon", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def _first_event(*arguments: object) -> str:
    command = [sys.executable, "-m", "yoi_daemon", "events", "--from", "earliest"]
    with subprocess.Popen(
        [*command, *map(str, arguments)], stdout=subprocess.PIPE, text=True
    ) as following:
        assert following.stdout
        line = following.stdout.readline()
        following.kill()
        return line


def test_the_client_follows_and_commands_over_tls(start_daemon, config, tmp_path) -> None:
    state = tmp_path / "state"
    (config / "yoi-daemon.toml").write_text(SETTINGS)
    _install(state, "server")
    daemon = start_daemon(config)
    assert daemon.api.startswith("https://127.0.0.1:")
    assert daemon.observe.startswith("wss://127.0.0.1:")
    # Found by its file: its own certificate is trusted, whatever name that has.
    assert _cli("status", "--state", state).returncode == 0
    assert "daemon.ready" in _first_event("--state", state)
    # Named by a URL: only by who issued the certificate.
    named = ("--url", daemon.api, "--token-file", state / "admin.token")
    untrusted = _cli("status", *named)
    assert untrusted.returncode == 69
    assert "--ca-file" in untrusted.stderr
    assert _cli("status", *named, "--ca-file", FILES / "ca.pem").returncode == 0
    assert "daemon.ready" in _first_event(*named, "--ca-file", FILES / "ca.pem")

    # Half renewed is refused whole, and the old one goes on.
    shutil.copy(FILES / "renewed.pem", state / "secrets" / "cert")
    refused = _cli("reload", "--state", state)
    assert refused.returncode == 1
    assert "api.tls_key: is the key of another certificate" in refused.stderr
    assert _cli("status", "--state", state).returncode == 0
    before = (state / "daemon.json").read_text()
    _install(state, "renewed")
    assert _cli("reload", "--state", state).returncode == 0
    assert (state / "daemon.json").read_text() != before
    assert _cli("status", "--state", state).returncode == 0
    assert daemon.stop() == 0


def test_all_addresses_are_for_tls_or_a_declared_proxy(start_daemon, config, tmp_path) -> None:
    everywhere = {"YOI__API__LISTEN": "0.0.0.0:0", "YOI__OBSERVE__ENABLED": "false"}
    bare = start_daemon(config, ready=False, **everywhere)
    assert bare.wait() == 78
    assert "tls_certificate" in "".join(bare.lines)
    behind_proxy = start_daemon(config, YOI__API__BEHIND_PROXY="true", **everywhere)
    assert behind_proxy.api.startswith("http://0.0.0.0:")
    assert _cli("status", "--state", tmp_path / "state").returncode == 0
    assert behind_proxy.stop() == 0
    _install(tmp_path / "state", "server")
    tls = {"YOI__API__TLS_CERTIFICATE": "cert", "YOI__API__TLS_KEY": "key"}
    secured = start_daemon(config, **tls, **everywhere)
    assert secured.api.startswith("https://0.0.0.0:")
    assert _cli("status", "--state", tmp_path / "state").returncode == 0
    assert secured.stop() == 0
