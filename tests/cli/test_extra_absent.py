import sys
from typing import Any

import pytest


def test_without_the_extra_it_says_what_to_install(
    run: Any, daemon: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("yoi_daemon.cli.follow", "yoi_daemon.client.stream"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "trio_websocket", None)
    outcome = run("events", "--state", str(daemon.state))
    assert outcome.code == 78
    assert "pip install 'yoi-daemon[observe]'" in outcome.err
    assert outcome.err.count("\n") == 1
    assert run("events", "--help").code == 0
