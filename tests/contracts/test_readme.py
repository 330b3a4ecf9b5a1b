"""The README is one page, and what it shows works as printed."""

from tests.contracts.manual_pages import README, blocks_of
from yoi_daemon.cli.manual import summary_of, topics

TEXT = README.read_text("utf-8")
MAX_LINES = 150


def test_the_readme_is_one_page():
    assert len(TEXT.splitlines()) <= MAX_LINES


def test_the_readme_links_every_page_of_the_manual_with_its_summary():
    for topic in topics():
        assert f"[{topic}](yoi_daemon/manual/{topic}.md) | {summary_of(topic)}" in TEXT


def test_the_readme_says_early_what_a_stranger_must_know():
    early = TEXT.partition("## Two commands")[0]
    for word in ("Trio", "trusted code", "Engines"):
        assert word in early


def test_the_readmes_plugin_and_client_are_short():
    lengths = {
        block.kind: len([line for line in block.text.splitlines() if line])
        for block in blocks_of(README)
    }
    assert lengths["python plugin"] <= 15
    assert lengths["python client"] <= 10
