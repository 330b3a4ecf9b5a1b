"""The running daemon is what its OpenAPI page says, against everything schemathesis thinks of."""

import importlib.util
import subprocess
import sys
import urllib.request

import pytest

from tests.e2e.conftest import start_daemon as start_daemon

pytestmark = [
    pytest.mark.prove,
    pytest.mark.skipif(
        importlib.util.find_spec("schemathesis") is None, reason="needs schemathesis"
    ),
]

# What the schema cannot say is refused by the state of things: a worker that is gone, a profile that is
# not there, a service that is stopped. 500 and the other faults of ours are expected nowhere.
CHECKS = """
[checks]
positive_data_acceptance.expected-statuses = ["2xx", 400, 404, 409, 410, 422, 429, 501, 503]
negative_data_rejection.expected-statuses = ["4xx", 501, 503]
not_a_server_error.expected-statuses = ["2xx", "3xx", "4xx", 501, 503]
"""
UNLIMITED = {
    f"YOI__API__{key}_PER_S": "10000" for key in ("COMMANDS", "AUTH_FAILURES", "ALL_AUTH_FAILURES")
}
"""Or the answers would be 429, where others are looked for."""
NDJSON = "/api/plugins/{plugin_id}/ingress"
"""A body that schemathesis cannot write."""


def test_all_checks_hold(start_daemon, tmp_path, full):
    config = tmp_path / "config"
    (config / "plugins").mkdir(parents=True)
    daemon = start_daemon(config, **UNLIMITED)
    authorization = f"Bearer {daemon.token}"
    asked = urllib.request.Request(
        f"{daemon.api}/openapi.json", headers={"Authorization": authorization}
    )
    with urllib.request.urlopen(asked, timeout=10) as answer:
        (tmp_path / "openapi.json").write_bytes(answer.read())
    (tmp_path / "schemathesis.toml").write_text(CHECKS)
    program = "import sys; from schemathesis.cli import schemathesis; sys.exit(schemathesis())"
    command = [sys.executable, "-c", program, "run", "openapi.json", "--url", daemon.api]
    command += ["-H", f"Authorization: {authorization}", "--checks", "all", "--seed", "1"]
    command += ["--exclude-path", NDJSON, "--no-color"]
    command += ["--phases", "coverage,fuzzing,stateful" if full else "coverage,fuzzing"]
    command += ["--max-examples", "100" if full else "5"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr
    assert daemon.request("GET", "/readyz") == (200, {"ready": True, "codes": []})
    assert daemon.stop() == 0
    assert not [line for line in daemon.lines if "Traceback" in line]
