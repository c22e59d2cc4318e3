"""Rules: turn pydantic's errors into sentences of the catalogue.

Not for the rules themselves, which are defined beside the fields (config.py, text/chat.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from quatrain.words import Sentence, catalogue

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

_UNHELPFUL = "default_factory_not_called"  # follows from another error of the same section


class Broken(ValueError):
    """Broken rules that a validator found, each as one sentence with its remedy."""

    def __init__(self, problems: Iterable[Sentence]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


def problems_of(
    error: ValidationError, names: Mapping[str, str] | None = None
) -> tuple[Sentence, ...]:
    """Describe each error in one line; `names` are the file's own names of the fields."""
    return tuple(problem for one in error.errors() for problem in problems_in(one, names))


def problems_in(one: ErrorDetails, names: Mapping[str, str] | None = None) -> Iterator[Sentence]:
    """Describe one error: one of our rules, or what pydantic expects there."""
    place = ".".join((names or {}).get(str(part), str(part)) for part in one["loc"])
    broken = one.get("ctx", {}).get("error")
    if isinstance(broken, Broken):
        for problem in broken.problems:
            inside = len(one["loc"]) > 1
            yield Sentence.of("rules.at", place=place, rule=problem) if inside else problem
    elif one["type"] == "extra_forbidden":
        yield Sentence.of("rules.unknown", place=place, near="")
    elif one["type"] != _UNHELPFUL:
        yield Sentence.of("rules.value", place=place, given=one["input"], why=why(one))


def why(one: ErrorDetails) -> str:
    """Return the catalogue's sentence for a kind of error, or pydantic's own if there is none."""
    key = f"why.{one['type']}"
    if key not in catalogue("rules", "en"):
        return one["msg"][:1].lower() + one["msg"][1:]
    bounds = {name: _bound(value) for name, value in one.get("ctx", {}).items()}
    first, either, last = str(bounds.get("expected", "")).rpartition(" or ")
    if either:
        bounds["expected"] = Sentence.of("rules.or", first=first, last=last)
    return Sentence.of(f"rules.{key}", **bounds)


def _bound(value: Any) -> str:
    """Write a bound as pydantic does: 1.0 is 1."""
    whole = isinstance(value, float) and value.is_integer()
    return str(int(value) if whole else value)
