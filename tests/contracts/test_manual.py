"""The manual is whole, its generated pages are those of this code, and each of its examples is held by a test."""

import configparser
import inspect
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import msgspec
import pytest
from prometheus_client.core import Metric

from scripts.reference import cli as cli_page
from scripts.reference import errors, events, http_api, metrics, settings, stream
from scripts.reference.pages import MANUAL, MARKER, PAGES, page_file, render
from scripts.reference.text import Undocumented
from tests.contracts.manual_pages import BLOCKS, CONTRIBUTING, ROOT, Block, blocks, blocks_of
from yoi_daemon.api.app import ROUTES
from yoi_daemon.cli.main import COMMANDS
from yoi_daemon.cli.manual import read_page, summary_of, topics
from yoi_daemon.model.configuration import parse_settings
from yoi_daemon.model.errors import CODES
from yoi_daemon.model.events import CATALOGUE
from yoi_daemon.model.settings import Section
from yoi_daemon.registry.recordings import RecordedItem, Recording
from yoi_daemon.stream.protocol import CLOSE_CODES, CLOSE_MEANINGS
from yoi_daemon.testing import open_plugin

PROVEN_HERE = {"python plugin", "python client", "python test", "sh excerpt", "toml", "ini", "json"}
PROVEN_ELSEWHERE = {
    "sh": "tests/e2e/test_manual.py",
    "sh root": "tests/proofs/test_operator_page.py",
}
SHOWN = {"text"}
"""Output, and usage lines: nothing to run."""


def by_place(block: Block) -> str:
    return block.place


# -- pages


def test_every_page_has_a_topic_and_a_summary():
    assert {page.stem for page in MANUAL.glob("*.md")} == set(topics())
    for topic in topics():
        assert re.fullmatch(r"# \w[\w ]*: \S.*", read_page(topic).partition("\n")[0])
        assert len(summary_of(topic)) > 10


@pytest.mark.parametrize("topic", PAGES)
def test_a_generated_page_is_that_of_this_code(topic):
    assert render(topic) == page_file(topic).read_text("utf-8"), "run ./scripts/manual"


def test_the_negative_control_a_stale_page_differs(tmp_path, monkeypatch):
    text = page_file("errors").read_text("utf-8")
    (tmp_path / "errors.md").write_text(text.replace("| 429 |", "| 428 |"), "utf-8")
    monkeypatch.setattr("scripts.reference.pages.MANUAL", tmp_path)
    assert render("errors") == text != (tmp_path / "errors.md").read_text("utf-8")
    (tmp_path / "errors.md").write_text(text.replace(MARKER, ""), "utf-8")
    with pytest.raises(ValueError, match="has no line"):
        render("errors")


def test_every_link_leads_somewhere():
    for page in (*MANUAL.glob("*.md"), ROOT / "README.md", CONTRIBUTING):
        text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
            if not target.startswith("https://"):
                assert (page.parent / target).exists(), f"{page.name}: {target}"


# -- completeness


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.rule}")
def test_every_route_is_described(route):
    path = route.rule.replace("<", "{").replace(">", "}")
    assert f"`{route.method} {path}`" in read_page("http-api")


def test_every_code_kind_and_close_code_is_described():
    for topic, names in (("errors", CODES), ("events", CATALOGUE), ("stream", CLOSE_CODES)):
        page = read_page(topic)
        assert [name for name in names if f"`{name}`" not in page] == []


def test_every_command_and_option_is_described():
    page = read_page("cli")
    found = list(cli_page.commands(cli_page.cli))
    assert {path[0] for path, _ in found} == set(COMMANDS)
    for path, command in found:
        assert f"## `{' '.join(path)}`" in page
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.opts[0] in page


def test_every_setting_is_described():
    page = read_page("settings")
    for path, kind in settings.tables(settings.Settings, ()):
        assert f"`[{'.'.join(path)}]`" in page
        for field in msgspec.structs.fields(kind):
            if not settings._subtables(field.type):
                assert f"### `{field.encode_name}`" in page


class Nameless(Section, frozen=True):
    """`[nameless]`: a table for the negative control."""

    key: int = 1


def test_the_negative_controls_what_has_no_sentence_is_caught():
    with pytest.raises(Undocumented, match=r"\[nameless\] key has no sentence"):
        list(settings._table_lines(("nameless",), Nameless))
    mute = click.Command("mute", help="Say nothing.", params=[click.Option(["--loud"])])
    with pytest.raises(Undocumented, match="mute --loud"):
        cli_page.render(click.Group("root", commands={"mute": mute}))
    undocumented = {**CODES, "mystery": msgspec.structs.replace(CODES["internal"], meaning="")}
    with pytest.raises(Undocumented, match="mystery"):
        errors.render(undocumented)
    with pytest.raises(Undocumented, match=r"daemon\.mystery"):
        events.render({**CATALOGUE, "daemon.mystery": CATALOGUE["daemon.ready"]})
    route = msgspec.structs.replace(ROUTES[0], handler=lambda request: None)
    with pytest.raises(Undocumented):
        http_api.render([route])
    with pytest.raises(Undocumented, match="yoi_mystery"):
        metrics.render([Metric("yoi_mystery", "", "gauge")])
    with pytest.raises(Undocumented, match="slow_consumer"):
        stream.render(meanings={**CLOSE_MEANINGS, "slow_consumer": ""})


# -- examples


def test_every_block_says_how_it_is_proven():
    kinds = {block.kind for block in BLOCKS}
    assert kinds <= PROVEN_HERE | SHOWN | PROVEN_ELSEWHERE.keys()
    for file in PROVEN_ELSEWHERE.values():
        assert (ROOT / file).exists()
    assert not [block.place for block in BLOCKS if not block.text.strip()]


def test_the_negative_control_a_block_without_a_kind_is_caught(tmp_path):
    (tmp_path / "page.md").write_text("```\nrm -rf /\n```\n")
    [block] = blocks_of(tmp_path / "page.md")
    assert block.kind not in PROVEN_HERE | SHOWN | PROVEN_ELSEWHERE.keys()


def plugin_name(text: str) -> str:
    found = re.search(r'Plugin\("(\w+)"', text)
    assert found is not None
    return found[1]


@pytest.mark.parametrize("block", blocks("python plugin"), ids=by_place)
async def test_a_plugin_starts_and_stops(block, tmp_path):
    file = tmp_path / f"{plugin_name(block.text)}.py"
    file.write_text(block.text)
    async with open_plugin(file) as harness:
        if plugin_name(block.text) == "hello":
            result = await harness.ingress("hello", {"name": "World"})
            assert result.outcome == "handled"
            assert harness.emitted == [("hello.greeted", {"text": "Hello, World!"})]


@pytest.mark.parametrize("block", blocks("python client"), ids=by_place)
def test_a_client_is_a_program(block):
    pytest.importorskip("trio_websocket")  # the stream's client needs the extra
    names: dict[str, object] = {}
    exec(compile(block.text, block.place, "exec"), names)  # its run is in tests/e2e/test_manual.py
    assert inspect.iscoroutinefunction(names["main"])


@pytest.mark.parametrize("block", blocks("python test"), ids=by_place)
def test_an_authors_test_passes(block, tmp_path):
    (tmp_path / "plugins").mkdir()
    (tmp_path / "tests").mkdir()
    [plugin, *_] = [
        one
        for one in blocks("python plugin")
        if one.page == block.page and plugin_name(one.text) == "hello"
    ]
    (tmp_path / "plugins" / "hello.py").write_text(plugin.text)
    (tmp_path / "tests" / "test_hello.py").write_text(block.text)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout


@pytest.mark.parametrize("block", blocks("sh excerpt"), ids=by_place)
def test_an_excerpt_names_programs_that_exist(block):
    for line in block.text.splitlines():
        words = line.partition("#")[0].split()
        if not words:
            continue
        program = Path(words[0]).name
        if words[0].startswith("./scripts/"):
            assert (ROOT / words[0]).exists(), line
        elif program == "yoi-daemon":
            assert words[1] in COMMANDS, line
        else:
            assert program in ("export", "python3", "pip", "systemctl"), line


@pytest.mark.parametrize("block", blocks("toml"), ids=by_place)
def test_a_configuration_is_taken(block):
    tomllib.loads(block.text)
    parse_settings(block.text, block.place, {})


@pytest.mark.parametrize("block", blocks("ini"), ids=by_place)
def test_a_drop_in_parses(block):
    parser = configparser.ConfigParser()
    parser.read_string(block.text)
    assert parser.sections()


@pytest.mark.parametrize("block", blocks("json"), ids=by_place)
def test_a_recording_is_one(block):
    msgspec.json.decode(block.text, type=Recording)


def test_a_recordings_keys_are_all_described():
    """Those that are optional say so, and no others do."""
    rows = (
        read_page("workers").partition("| key | value |")[2].partition("\n\n")[0].splitlines()[2:]
    )
    keys: dict[str, bool] = {}
    for row in rows:
        names, meaning = row.strip("| ").split(" | ", 1)
        for name in re.findall(r"`(\w+)", names):
            keys[name] = "optional" in meaning
    fields = msgspec.structs.fields(Recording)
    assert keys == {field.name: not field.required for field in fields}
    (items,) = [row for row in rows if row.startswith("| `items`")]
    named = re.findall(r"\w+", items.partition("{")[2].partition("}")[0])
    assert set(RecordedItem.__struct_fields__) <= set(named)
