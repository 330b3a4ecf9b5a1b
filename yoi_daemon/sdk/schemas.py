"""JSON Schemas of an author's types."""

from typing import Any

import msgspec

from yoi_daemon.model.manifest import JsonSchema
from yoi_daemon.sdk.config import Config, Secret

SECRET_FORMAT = "secret-file"


def schema_of(kind: Any) -> JsonSchema:
    """Returns the JSON Schema of a type. Raises `TypeError` where it has none that is JSON itself."""
    schema = msgspec.json.schema(kind)
    msgspec.json.encode(schema)  # an author's `extra_json_schema` or default may hold anything
    return schema


def loose_schema_of(kind: Any) -> JsonSchema:
    """Returns the JSON Schema of a type, or the one that allows any value where there is none.

    A type that only msgspec's hooks know is any value within it; a `Secret` is the name of its file.
    """
    try:
        schema = msgspec.json.schema(kind, schema_hook=_custom)
        msgspec.json.encode(schema)
    except Exception:  # noqa: BLE001 (an author's annotations, defaults and enumerations are evaluated)
        return {}
    return schema


def secret_fields(config_type: type[Config]) -> tuple[str, ...]:
    """Returns the dotted names of the settings that are secrets, lists and tables of them included."""
    try:
        info = msgspec.inspect.type_info(config_type)
    except Exception:  # noqa: BLE001 (an author's annotations are evaluated)
        return ()
    return tuple(dict.fromkeys(_secrets_in(info, "", ())))


def _custom(kind: type) -> JsonSchema:
    if kind is Secret:
        return {
            "type": "string",
            "format": SECRET_FORMAT,
            "description": "the name of a file in the secrets directory",
        }
    return {"description": kind.__name__}


def _secrets_in(info: msgspec.inspect.Type, name: str, above: tuple[Any, ...]) -> list[str]:
    match info:
        case msgspec.inspect.Metadata(type=inner):
            return _secrets_in(inner, name, above)
        case msgspec.inspect.CustomType(cls=kind):
            return [name] if kind is Secret else []
        case msgspec.inspect.StructType(cls=kind, fields=fields) if kind not in above:
            prefix = f"{name}." if name else ""
            return [
                found
                for field in fields
                for found in _secrets_in(field.type, f"{prefix}{field.encode_name}", (*above, kind))
            ]
        case msgspec.inspect.UnionType(types=kinds):
            return [found for kind in kinds for found in _secrets_in(kind, name, above)]
        case msgspec.inspect.CollectionType(item_type=inner):
            return _secrets_in(inner, name, above)
        case msgspec.inspect.DictType(value_type=inner):
            return _secrets_in(inner, name, above)
        case _:
            return []
