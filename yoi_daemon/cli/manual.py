"""`yoi-daemon manual`: the manual's pages, which are shipped in the package."""

import sys
from collections.abc import Mapping
from difflib import get_close_matches
from importlib import resources

import click
from rich.console import Console
from rich.markdown import Markdown

from yoi_daemon.cli.options import Command, Common, common_options
from yoi_daemon.cli.output import write_columns, write_json

GROUPS: Mapping[str, tuple[str, ...]] = {
    "Guides": ("start", "authors", "subscribers", "workers", "operate", "security"),
    "Reference": ("settings", "cli", "http-api", "stream", "events", "errors", "metrics"),
    "Project": ("architecture", "glossary", "changelog"),
}
"""The pages in reading order. Each is `yoi_daemon/manual/TOPIC.md`; its first line is `# Title: summary`."""


@click.command(cls=Command)
@click.argument("topic", required=False)
@common_options
def manual(options: Common, topic: str | None) -> None:
    """Show a page of the manual, or list the pages.

    A terminal gets the page in a pager. A pipe gets its Markdown.
    """
    if topic is None:
        _list_topics(as_json=options.as_json)
        return
    if topic not in topics():
        raise click.BadParameter(_unknown(topic), param_hint="TOPIC")
    if options.as_json:
        write_json({"topic": topic, "summary": summary_of(topic), "text": read_page(topic)})
    else:
        _show(read_page(topic))


def topics() -> tuple[str, ...]:
    """Returns every topic, in reading order."""
    return tuple(topic for group in GROUPS.values() for topic in group)


def read_page(topic: str) -> str:
    """Returns the Markdown of a page."""
    page = resources.files("yoi_daemon").joinpath("manual", f"{topic}.md")
    return page.read_text(encoding="utf-8")


def summary_of(topic: str) -> str:
    """Returns what the page is about, in one line: the second half of its title."""
    title = read_page(topic).partition("\n")[0]
    return title.partition(": ")[2]


def _list_topics(*, as_json: bool) -> None:
    if as_json:
        write_json([{"topic": topic, "summary": summary_of(topic)} for topic in topics()])
        return
    for group, members in GROUPS.items():
        click.echo(f"{group}:")
        write_columns([[f"  {topic.ljust(12)}", summary_of(topic)] for topic in members])
        click.echo()
    click.echo("'yoi-daemon manual TOPIC' shows a page.")


def _show(page: str) -> None:
    if not sys.stdout.isatty():
        click.echo(page, nl=False)
        return
    console = Console()
    with console.capture() as captured:
        console.print(Markdown(page, hyperlinks=False))
    click.echo_via_pager(captured.get(), color=True)


def _unknown(topic: str) -> str:
    close = get_close_matches(topic.lower(), topics(), n=1, cutoff=0.5)
    advice = f"did you mean '{close[0]}'?" if close else f"there are {', '.join(topics())}"
    return f"{topic!a} is not a page; {advice}"
