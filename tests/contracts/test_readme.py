"""What the README shows works as printed."""

import re
from pathlib import Path

import msgspec
import pytest

from yoi_daemon.api.app import ROUTES
from yoi_daemon.cli.main import COMMANDS
from yoi_daemon.registry.recordings import RecordedItem, Recording
from yoi_daemon.sdk.testing import open_plugin

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


async def test_the_plugin_runs(tmp_path):
    (tmp_path / "hello.py").write_text(BLOCKS[0])
    async with open_plugin(tmp_path / "hello.py", config={"greeting": "Hi"}) as harness:
        result = await harness.ingress("hello", {"name": "World"})
    assert result.outcome == "handled"
    assert harness.emitted == [("hello.greeted", {"text": "Hi, World!"})]
    assert len([line for line in BLOCKS[0].splitlines() if line]) <= 15


def test_the_subscription_is_short_and_compiles():
    assert len([line for line in BLOCKS[1].splitlines() if line]) <= 10
    compile(BLOCKS[1], "README.md", "exec")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_named(command):
    named = README.partition("## Command line")[2].partition("##")[0]
    assert re.search(rf"\b{command}\b", named)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.rule}")
def test_every_route_is_named(route):
    """By its last fixed part: the table joins routes that share a beginning."""
    table = README.partition("## HTTP API")[2].partition("##")[0]
    fixed = [part for part in route.rule.split("/") if part and not part.startswith("<")]
    assert fixed[-1] in table


def test_a_records_keys_are_all_told():
    """What is optional says so, and nothing else does."""
    told = README.partition("| key | |")[2].partition("\n\n")[0].splitlines()[2:]
    keys: dict[str, bool] = {}
    for row in told:
        names, says = row.strip("| ").split(" | ", 1)
        for name in re.findall(r"`(\w+)", names):
            keys[name] = "optional" in says
    fields = msgspec.structs.fields(Recording)
    assert keys == {field.name: not field.required for field in fields}
    (items,) = [row for row in told if row.startswith("| `items`")]
    named = re.findall(r"\w+", items.partition("{")[2].partition("}")[0])
    assert set(RecordedItem.__struct_fields__) <= set(named)
