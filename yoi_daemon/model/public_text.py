"""Foreign text on its way out of the house: the log may name places of this machine, an answer may not."""

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
    """`text` with every absolute path as `<path>` and every URL as `<url>`; a single `/word` may be a route, and stays."""
    return _PLACE.sub(lambda match: "<url>" if match["url"] else "<path>", text)
