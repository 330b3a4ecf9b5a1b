"""Collects the faults of a configuration, each with its file, line and key."""

import re
from collections.abc import Mapping

from yoi_daemon.model.errors import ConfigFault, ConfigurationError

ENVIRONMENT = "environment"

Path = tuple[str, ...]


class Faults:
    """Collects faults, until `raise_if_any`."""

    def __init__(
        self, file: str, text: str = "", overridden: Mapping[Path, str] | None = None
    ) -> None:
        self._file = file
        self._lines = _key_lines(text)
        self._overridden: Mapping[Path, str] = {} if overridden is None else overridden
        self._found: list[ConfigFault] = []

    def add(self, path: Path, expected: str) -> None:
        """Adds a fault at `path`; its line is that of the nearest key in the text."""
        if (variable := self._variable(path)) is not None:
            self.add_variable(variable, expected)
            return
        line = next(
            (self._lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in self._lines),
            None,
        )
        self._found.append(
            ConfigFault(file=self._file, key=".".join(path), expected=expected, line=line)
        )

    def add_variable(self, variable: str, expected: str) -> None:
        """Adds a fault of an environment variable."""
        self._found.append(ConfigFault(file=ENVIRONMENT, key=variable, expected=expected))

    def _variable(self, path: Path) -> str | None:
        """Returns the variable that set `path`, a table around it, or a key below it."""
        for n in range(len(path), 0, -1):
            if path[:n] in self._overridden:
                return self._overridden[path[:n]]
        if path in self._lines:
            return None
        below = (key for key in self._overridden if key[: len(path)] == path)
        return next((self._overridden[key] for key in below), None)

    def raise_if_any(self) -> None:
        """Raises `ConfigurationError` with all faults, in the order of the file."""
        if self._found:
            raise ConfigurationError(
                sorted(self._found, key=lambda f: (f.file, f.line or 0, f.key))
            )


_HEADER = re.compile(r"\s*\[([^\[\]]+)\]\s*(?:#.*)?$")
_KEY = re.compile(
    r"""\s*((?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*'))*)\s*="""
)
_PART = re.compile(r"""[A-Za-z0-9_-]+|"[^"]*"|'[^']*'""")


def _key_lines(text: str) -> dict[Path, int]:
    """Returns the line of each header and key, which tomllib does not; a key inside a multi-line value may shadow."""
    lines: dict[Path, int] = {}
    table: Path = ()
    for number, line in enumerate(text.split("\n"), 1):  # splitlines knows more line ends than TOML
        if header := _HEADER.match(line):
            table = _parts(header[1])
            lines.setdefault(table, number)
        elif key := _KEY.match(line):
            lines.setdefault((*table, *_parts(key[1])), number)
    return lines


def _parts(dotted: str) -> Path:
    return tuple(part.strip("\"'") for part in _PART.findall(dotted))
