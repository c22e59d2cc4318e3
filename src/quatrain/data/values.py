"""Values: what a column or a turn holds becomes text, or the reason why it cannot.

    "Paris"                              Paris
    12, 2.5, true                        12, 2.5, true, as JSON writes them; counted by who asks
    [{"type": "text", "text": "Où ?"}]   Où ?   the content of a turn alone; parts are joined
    null, {"a": 1}, [1]                  Unfit

Not for which column means what (columns.py).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any

from quatrain.data.json_rows import find_flaw, kind_of
from quatrain.words import Sentence

MEDIA = ("images", "image", "videos", "video", "audios", "audio")
"""Keys of a turn, and columns, that hold what is not text."""
_EXCERPT = 120
_TRUTHS = {"true": True, "vrai": True, "1": True, "false": False, "faux": False, "0": False}


class Unfit(ValueError):
    """A row, or a part of one, breaks a rule; the message is the rejection's reason."""

    def __init__(self, key: str, /, **values: object) -> None:
        super().__init__(key)
        self.message = Sentence.of(key, **values)


def is_nothing(value: Any) -> bool:
    """Tell whether a value counts as missing."""
    return value is None or value in ("", [], {})


def excerpt(value: Any) -> str:
    """Show the beginning of a value, on one line."""
    text = value if isinstance(value, str) else repr(value)
    return " ".join(text[:_EXCERPT].split())


def decoded(value: Any) -> Any:
    """Take a list or an object that a table has as JSON text; all else as it is."""
    if not isinstance(value, str) or value.lstrip()[:1] not in ("[", "{"):
        return value
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        return value
    return value if find_flaw(found) else found


def is_text(value: Any) -> bool:
    """Say whether a value is text, or what `text_of` makes text of."""
    return isinstance(value, str) or is_typed(value)


def is_typed(value: Any) -> bool:
    """Say whether a value is a number or a boolean, which JSON can write."""
    return isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value))


def truth_of(value: Any) -> bool | None:
    """Read true or false, which a table has as text, in the language of its sheet; else None."""
    if not isinstance(value, str | bool | int):
        return None
    return _TRUTHS.get(str(value).strip().casefold())


def count_typed(values: Iterable[Any]) -> int:
    """Count the values that become text because JSON can write them."""
    return sum(map(is_typed, values))


def text_of(value: Any, name: str) -> str:
    """Take text as it is, and a number or a boolean as JSON writes it."""
    if isinstance(value, str):
        return value
    if is_typed(value):
        return json.dumps(value)
    kind = str(value) if isinstance(value, float) else kind_of(value)
    raise Unfit("reasons.text", name=name, kind=kind)


def content_of(value: Any, name: str) -> str:
    """Take what a turn says: text, or parts of text, joined with nothing between them."""
    if not isinstance(value, list):
        return text_of(value, name)
    return "".join(_part(part, name) for part in value)


def keys_of_parts(value: list[Any]) -> list[str]:
    """Name the keys of a turn's parts that are not used."""
    return [
        str(key)
        for part in value
        if isinstance(part, dict)
        for key, held in part.items()
        if key not in ("type", "text") and not is_nothing(held)
    ]


def _part(part: Any, name: str) -> str:
    if not isinstance(part, dict):
        raise Unfit("reasons.part_kind", name=name, kind=kind_of(part))
    if part.get("type") != "text":
        raise Unfit("reasons.part", type=part.get("type"))
    for key in (*MEDIA, "image_url", "input_audio", "file"):
        if not is_nothing(part.get(key)):
            raise Unfit("reasons.part", type=key)
    return text_of(part.get("text"), "text")
