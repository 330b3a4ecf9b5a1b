"""`events`: every kind with its sentence and the fields of its data."""

from collections.abc import Iterator, Mapping

import msgspec

from scripts.reference.text import Undocumented, describe, kinds_and_sentences, sentence, table
from yoi_daemon.model.events import CATALOGUE, Data, is_volume


def render(catalogue: Mapping[str, type[Data]] = CATALOGUE) -> str:
    return "\n".join(_lines(catalogue))


def _lines(catalogue: Mapping[str, type[Data]]) -> Iterator[str]:
    for shape in dict.fromkeys(catalogue.values()):
        kinds = [kind for kind, of in catalogue.items() if of is shape]
        named = dict(kinds_and_sentences(shape.__doc__ or ""))
        if missing := [kind for kind in kinds if kind not in named]:
            raise Undocumented(f"{', '.join(missing)} has no sentence")
        yield "## " + ", ".join(f"`{kind}`" for kind in kinds)
        yield ""
        if len(kinds) == 1:
            text = sentence(named[kinds[0]], kinds[0])
            yield text[0].upper() + text[1:]
        else:
            yield from (f"- `{kind}`: {sentence(named[kind], kind)}" for kind in kinds)
        rest = (shape.__doc__ or "").partition("\n\n")[2]
        if len(kinds) == 1 and rest.strip():
            yield f"\n{sentence(rest, kinds[0])}"
        yield ""
        fields = [
            (
                f"`{field.encode_name}`",
                describe(field.type),
                "always" if field.required else "optional",
            )
            for field in msgspec.structs.fields(shape)
        ]
        yield table(("field", "type", "present"), fields)
        yield ""
        yield f"Retention class: {'volume' if is_volume(kinds[0]) else 'lifecycle'}."
        yield ""
