"""The reference pages: an introduction by hand, a marker, and what the code says below it."""

from collections.abc import Callable, Mapping
from pathlib import Path

from scripts.reference import cli, errors, events, http_api, metrics, settings, stream

MANUAL = Path(__file__).parents[2] / "yoi_daemon" / "manual"
MARKER = "<!-- Written by ./scripts/manual from the code. Change it there. -->"

PAGES: Mapping[str, Callable[[], str]] = {
    "settings": settings.render,
    "cli": cli.render,
    "http-api": http_api.render,
    "stream": stream.render,
    "events": events.render,
    "errors": errors.render,
    "metrics": metrics.render,
}
"""What makes the generated half of each page."""


def page_file(topic: str) -> Path:
    return MANUAL / f"{topic}.md"


def render(topic: str) -> str:
    """The whole page as it should be. Raises `ValueError` where it has no marker."""
    introduction, marker, _ = page_file(topic).read_text("utf-8").partition(MARKER)
    if not marker:
        raise ValueError(f"{page_file(topic)} has no line {MARKER!r}")
    return f"{introduction}{MARKER}\n\n{PAGES[topic]().strip()}\n"
