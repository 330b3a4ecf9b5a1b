"""The manual's commands and clients, against a real daemon, in the order of their pages."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.contracts.manual_pages import Block, blocks

SHELL = blocks("sh")
PAGES = tuple(dict.fromkeys(block.page for block in SHELL))


@pytest.fixture
def environ(config, tmp_path):
    """A configuration with the plugins that the pages speak of, and an environment to type commands in."""
    [hello, *_] = [block for block in blocks("python plugin") if 'Plugin("hello"' in block.text]
    (config / "plugins" / "hello.py").write_text(hello.text)
    return {
        **os.environ,
        "CONFIG": str(config),
        "STATE": str(tmp_path / "state"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }


def run(block: Block, environ: dict[str, str], cwd: Path) -> str:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block.text],
        cwd=cwd,
        env=environ,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, f"{block.place}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_work_in_order(start_daemon, config, environ, tmp_path, page):
    daemon = start_daemon(config)
    outputs = [run(block, environ, tmp_path) for block in SHELL if block.page == page]
    assert all(outputs)
    assert daemon.stop() == 0


def test_the_negative_control_a_command_that_fails_is_caught(environ, tmp_path):
    block = Block("none.md", 1, "sh", 'yoi-daemon status --state "$STATE"\ntrue\n')
    with pytest.raises(AssertionError, match=r"none\.md:1"):
        run(block, environ, tmp_path)


@pytest.mark.parametrize("block", blocks("python client"), ids=lambda block: block.place)
def test_a_client_prints_what_happens(start_daemon, config, environ, tmp_path, block):
    daemon = start_daemon(config)
    daemon.request("POST", "/api/plugins/hello/ingress/hello", {"name": "World"})
    # The program never ends by itself: it is given some seconds, and must have printed by then.
    program = (
        f"{block.text}\nimport sys\nurl, token = sys.argv[1:]\n"
        "async def some() -> None:\n"
        "    with trio.move_on_after(3):\n"
        "        await main(url, token)\n"
        "trio.run(some)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, f"{daemon.observe}/v1/events", daemon.token],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"(hello\.greeted|plugin\.state) \{", done.stdout)
    assert daemon.stop() == 0
