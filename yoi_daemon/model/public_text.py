"""Removes paths and URLs from foreign text: logs may name places of this machine, responses may not."""

import re

_PLACE = re.compile(
    r"""
      (?P<url>(?<![A-Za-z0-9+.-])[A-Za-z][A-Za-z0-9+.-]{0,31}://[^\s'"<>]+)
    | (?P<quote>['"])/[^'"\n]{0,4096}(?P=quote)                   # as the errors of the system quote a file's name
    | (?<![\w./~<>-])/[^\s/'":,;()<>]+(?:/[^\s'":,;()<>]*)+
    """,
    re.VERBOSE,
)


def public_text(text: str) -> str:
    """Returns `text` with absolute paths as `<path>` and URLs as `<url>`; keeps `/word`, which may be a route."""
    return _PLACE.sub(lambda match: "<url>" if match["url"] else "<path>", text)
