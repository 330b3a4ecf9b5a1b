"""`stream`: every message and close code."""

from collections.abc import Mapping

import msgspec

from scripts.reference.text import Undocumented, describe, sentence, table
from yoi_daemon.front.connection import ORDERLY_CLOSE_CODES
from yoi_daemon.model.events import ObservationEvent
from yoi_daemon.stream import protocol

OWN = tuple(
    kind
    for kind in vars(protocol).values()
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and kind.__struct_config__.tag
)
"""The messages that the protocol has beside the event itself."""


def render(
    messages: tuple[type[msgspec.Struct], ...] = (*OWN, ObservationEvent),
    codes: Mapping[str, int] = {**ORDERLY_CLOSE_CODES, **protocol.CLOSE_CODES},
    meanings: Mapping[str, str] = protocol.CLOSE_MEANINGS,
) -> str:
    parts = ["## Messages"]
    for message in dict.fromkeys(messages):
        tag = str(message.__struct_config__.tag)
        fields = [
            (
                f"`{field.encode_name}`",
                describe(field.type),
                "always" if field.required else "optional",
            )
            for field in msgspec.structs.fields(message)
        ]
        parts += [
            f"### `{tag}`",
            sentence(message.__doc__, tag),
            table(("field", "type", "present"), fields),
        ]
    if missing := set(codes) - set(meanings):
        raise Undocumented(f"{', '.join(sorted(missing))} has no sentence")
    rows = [
        (str(number), f"`{code}`", sentence(meanings[code], code))
        for code, number in sorted(codes.items(), key=lambda item: item[1])
    ]
    parts += ["## Close codes", table(("close code", "`code`", "meaning"), rows)]
    return "\n\n".join(parts)
