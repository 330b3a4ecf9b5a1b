"""Text that came from plugins, webhooks and models, on its way to a terminal.

Every character that is not printable is written as an escape, so that no text can move the cursor
or the clipboard. Nothing heavy is imported here: errors pass through it too.
"""


def printable(text: str, keep: str = "") -> str:
    """`text` with every character that does not print as itself, but those in `keep`, escaped."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() or character in keep else _escape(character)
        for character in text
    )


def _escape(character: str) -> str:
    number = ord(character)
    if number < 0x100:
        return {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(character, f"\\x{number:02x}")
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
