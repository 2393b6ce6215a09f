"""JSON Schema's verdicts in words: where, what was expected, what came."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import jsonschema_rs

from falconimg.errors import Place

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import ValidationError

Schema = dict[str, Any]

BOUNDS = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"})

NAMES = {
    "array": "an array",
    "boolean": "true or false",
    "integer": "a whole number",
    "null": "null",
    "number": "a number",
    "object": "an object",
    "string": "a string",
}


class Validator:
    """A JSON Schema, compiled twice: jsonschema-rs says whether a document is valid, jsonschema what is wrong with it.

    The first takes a hundredth of the second's time. A document that only it refuses is valid all the same.
    """

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._quick = jsonschema_rs.Draft202012Validator(schema)

    @cached_property
    def _judge(self) -> Draft202012Validator:
        from jsonschema import Draft202012Validator  # a tenth of all that a server loads, for who is wrong

        return Draft202012Validator(self._schema)

    def takes(self, document: object) -> bool:
        """Whether it is surely valid."""
        try:
            return self._quick.is_valid(document)
        except ValueError:  # a lone surrogate: no text for it
            return False

    def errors(self, document: object) -> Iterator[ValidationError]:
        """What is wrong with it."""
        return iter(()) if self.takes(document) else self._judge.iter_errors(document)


def faults(validator: Validator, document: object, limit: int) -> list[Place]:
    """The first `limit` faults of a document, none if it is valid."""
    found: dict[Place, None] = {}  # a wrong value may break two rules of one meaning
    for error in validator.errors(document):
        for place in places(error):
            found[place] = None
            if len(found) == limit:
                return list(found)
    return list(found)


def out_of_bounds(error: ValidationError) -> bool:
    """Whether a number is too small, too large or not one of those there are, and nothing else is wrong."""
    return error.validator in BOUNDS or (error.validator == "enum" and isinstance(error.instance, (int, float)))


def pointer(path: Any) -> str:
    """RFC 6901: the reference tokens of a path, escaped."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)


def came(value: object) -> str:
    """A value as it came, in ASCII, with control characters escaped, at most 100 characters long."""
    if isinstance(value, list):
        return f"an array of {len(value)}"
    if isinstance(value, dict):
        return f"an object of {len(value)}"
    text = json.dumps(value[:100] if isinstance(value, str) else value)
    return text if len(text) <= 100 else text[:97] + "..."


def expected(schema: Mapping[str, Any]) -> str:
    """What a schema takes, in words: its own `expected`, its values, or its type and bounds."""
    if "x-expected" in schema:
        return str(schema["x-expected"])
    if "const" in schema:
        return json.dumps(schema["const"])
    if "enum" in schema:
        return "one of " * (len(schema["enum"]) > 1) + ", ".join(str(value) for value in schema["enum"])
    types = schema.get("type", "a value")
    kind = " or ".join(NAMES[name] for name in ([types] if isinstance(types, str) else types))
    if types == "string" and "maxLength" in schema:
        return f"a string of {schema.get('minLength', 0)} to {schema['maxLength']} characters"
    low, over, high = (schema.get(key) for key in ("minimum", "exclusiveMinimum", "maximum"))
    if over is not None and high is not None:
        return f"over {over} and at most {high}"
    if low is not None and high is not None:
        return f"{low} to {high}" if types == "number" else f"{kind} from {low} to {high}"
    return f"{kind} of at least {low}" if low is not None else kind


def places(error: ValidationError) -> Iterator[Place]:
    """One fault of jsonschema's as ours; several where an object has keys that nobody knows."""
    at = pointer(error.absolute_path)
    instance: Any = error.instance
    schema: Any = error.schema
    rule: Any = error.validator_value
    if error.validator == "required":
        # jsonschema reports each missing key by itself
        missing = next(key for key in rule if repr(key) in error.message)
        yield Place(at, f"expected the key {came(missing)}, which is missing")
    elif error.validator == "additionalProperties":
        known = ", ".join(schema["properties"])
        for key in sorted(set(instance) - set(schema["properties"])):
            yield Place(at, f"expected one of the keys {known}, came {came(key)}")
    elif error.validator in ("maxItems", "minItems"):
        bound = f"at most {rule} ({schema['x-setting']})" if error.validator == "maxItems" else f"at least {rule}"
        yield Place(at, f"expected {bound}, came {len(instance)}")
    elif error.validator == "dependentRequired":
        alone = ", ".join(key for key in rule if key in instance)
        yield Place(at, f"expected both or none of {' and '.join(rule)}, came {alone} alone")
    elif error.validator in ("not", "oneOf", "anyOf"):
        if isinstance(instance, dict):  # of anything else its type is the fault
            alternatives = schema["x-alternatives"]
            found = " and ".join(word for word in re.findall(r"\w+", alternatives) if word in instance)
            yield Place(at, f"expected {alternatives}, came {found or 'none'}")
    else:
        number = "a number, " * (error.validator == "type" and schema.get("type") == "number" and "maximum" in schema)
        yield Place(at, f"expected {number}{expected(schema)}, came {came(instance)}")
