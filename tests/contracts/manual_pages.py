"""The README and the manual's pages, and the blocks of code in them."""

import re
from pathlib import Path
from typing import NamedTuple

from scripts.reference.pages import MANUAL

ROOT = MANUAL.parents[1]
README = ROOT / "README.md"
CONTRIBUTING = ROOT / ".github" / "CONTRIBUTING.md"
PAGES = (README, *sorted(MANUAL.glob("*.md")))
BLOCK = re.compile(r"^```([a-z]*)(?: (\w+))?\n(.*?)^```$", re.DOTALL | re.MULTILINE)


class Block(NamedTuple):
    """A block of code; `kind` says how it is proven: its language, and a word where there are several ways."""

    page: str
    line: int
    kind: str
    text: str

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_of(file: Path) -> list[Block]:
    text = file.read_text("utf-8")
    return [
        Block(
            file.name,
            text.count("\n", 0, match.start()) + 1,
            f"{match[1]} {match[2] or ''}".strip(),
            match[3],
        )
        for match in BLOCK.finditer(text)
    ]


BLOCKS = tuple(block for page in PAGES for block in blocks_of(page))


def blocks(kind: str) -> tuple[Block, ...]:
    return tuple(block for block in BLOCKS if block.kind == kind)
