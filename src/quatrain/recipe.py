"""Recipes: YAML files and `section.field=value` overrides become a Config, or all their errors.

Order of precedence: defaults, then the preset, then the recipe, then the overrides. An unknown
name is an error that proposes the nearest one. What a value means, its field decides, not YAML:

    data.columns.question=No   text, as any field of text: No, 007, 2024-11-05, on, 1_000
    train.seed=007             the number 7
    model.init=null            nothing, where a field may have nothing; "null" in quotes is text

Nothing here needs torch.
"""

from __future__ import annotations

import difflib
import logging
import os
import re
import shlex
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import ValidationError

from quatrain.borrowed import fields_called, plain
from quatrain.config import Config, ModelConfig
from quatrain.errors import ConfigError
from quatrain.files import at_home
from quatrain.rules import problems_in
from quatrain.sections import Section
from quatrain.words import Sentence, say

logger = logging.getLogger(__name__)

_UNREADABLE = (yaml.YAMLError, ValueError, RecursionError)
"""What PyYAML raises; the last for deep nesting."""
_NOTHING = ("", "~", "null", "Null", "NULL")
_SWITCHES = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_INTEGER = re.compile(r"[-+]?[0-9]{1,18}")
_DECIMAL = re.compile(r"[-+]?(?:[0-9]{1,18}\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]{1,3})?")


def shipped(folder: str = "") -> list[str]:
    """Name the recipes that come with quatrain; or, in `presets`, its architectures."""
    found = (resources.files("quatrain") / "recipes" / folder).iterdir()
    return sorted(p.name.removesuffix(".yaml") for p in found if p.name.endswith(".yaml"))


def load_config(recipe: str | None, overrides: Sequence[str], **fixed: Any) -> Config:
    """Build the Config of a run.

    Args:
        recipe: a shipped name, the path of a YAML file, or None for the defaults.
        overrides: `section.field=value`; lists and mappings in YAML.
        fixed: what the command itself settles, as `train={"task": "sft"}`.

    Raises:
        ConfigError: Q201 for a recipe that cannot be read, Q202 listing every broken rule.
    """
    values = read_recipe(recipe) if recipe else {}
    given = read_overrides(overrides)
    _set_rivals_aside(values, given)
    _merge(values, given)
    _merge(values, fixed)
    return build(_with_preset(values))


def build(values: dict[str, Any]) -> Config:
    """Validate nested values; every problem is reported at once (Q202)."""
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        problems = tuple(dict.fromkeys(_problems(error, values)))
    raise ConfigError("Q202.problems", count=len(problems), problems=problems)


def read_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """Read `section.field=value` as nested values; of two of one field the last holds."""
    given: dict[str, Any] = {}
    for override in overrides:
        _merge(given, _parse_override(override))
    return given


def read_recipe(recipe: str) -> dict[str, Any]:
    """Read a recipe by shipped name or path."""
    path = Path(recipe)
    if recipe in shipped():
        text = (resources.files("quatrain") / "recipes" / f"{recipe}.yaml").read_text("utf-8")
    elif path.suffix in (".yaml", ".yml") and path.is_file():
        text = _read_text(path)
    elif path.exists():
        raise ConfigError("Q201.data", recipe=recipe, given=shlex.quote(recipe))
    else:
        near = _nearest(recipe, shipped())
        raise ConfigError("Q201.recipe", recipe=recipe, known=", ".join(shipped()), near=near)
    return _read_yaml(text, recipe, Config)


def to_yaml(config: Config) -> str:
    """Write a Config such that `build` reads it back equal."""
    values = config.model_dump(mode="json")
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def line(field: str, value: Any) -> str:
    """Write one field of a recipe such that it is read back equal: `train: [a.jsonl]`."""
    text = yaml.dump(
        [field, value], Dumper=_Dumper, default_flow_style=True, allow_unicode=True, width=10**6
    )
    name, _, rest = text.strip()[1:-1].partition(", ")
    return f"{name}: {rest}"


SCHEMA = "quatrain.schema.json"
"""What the file of `schema` is called, beside a recipe."""


def schema() -> dict[str, Any]:
    """Describe recipes for editors, as a JSON schema: fields, what they mean, what they may be."""
    made = Config.model_json_schema()
    for section in made["$defs"].values():
        for field in section["properties"].values():
            if field.get("items", {}).get("type") == "string":
                field["type"] = ["array", "string"]  # whose parts commas divide
            for one in field.get("anyOf", ()):
                if one.get("items", {}).get("type") == "string":
                    one["type"] = ["array", "string"]
    preset = made["$defs"]["ModelConfig"]["properties"]["preset"]
    preset["anyOf"] = [{"enum": shipped("presets")}, {"type": "null"}]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **made, "title": "Quatrain"}


class _Dumper(yaml.SafeDumper):
    """Quotes what YAML takes for the end of a line so that it is read back as it was."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        style = '"' if any(end in data for end in "\n\r\x85\u2028\u2029") else None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style)


_Dumper.add_representer(str, _Dumper.represent_str)


class _Typed(str):
    """A scalar without quotes, as it was typed: what it means is its field's to say."""


class _Loader(yaml.SafeLoader):
    """YAML without duplicate keys, whose plain scalars are left as they were typed."""

    def construct_text(self, node: yaml.ScalarNode) -> str:
        text = str(self.construct_scalar(node))
        return text if node.style else _Typed(text)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = {str(key) for key in keys if keys.count(key) > 1}
        if twice:
            raise yaml.YAMLError(Sentence.of("rules.yaml_twice", keys=", ".join(sorted(twice))))
        return dict(super().construct_mapping(node, deep))


_Loader.yaml_implicit_resolvers = {"<": yaml.SafeLoader.yaml_implicit_resolvers["<"]}  # merging
_Loader.add_constructor("tag:yaml.org,2002:str", _Loader.construct_text)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("Q201.unreadable", path=path, error=error) from None


def _read_yaml(text: str, name: str, section: type[Section]) -> dict[str, Any]:
    try:
        value = yaml.load(text, _Loader)
    except _UNREADABLE as error:
        ours = [part for part in error.args if isinstance(part, Sentence)]
        raise ConfigError("Q201.yaml", name=name, why=ours[0] if ours else error) from None
    if value is None or value in _NOTHING:
        return {}
    if not isinstance(value, dict):
        kind = "str" if isinstance(value, str) else type(value).__name__
        raise ConfigError("Q201.mapping", name=name, kind=kind)
    settled: dict[str, Any] = _settled(value, section)
    return settled


def _parse_override(override: str) -> dict[str, Any]:
    """Turn `a.b=1` into {"a": {"b": 1}}."""
    path, equals, text = override.partition("=")
    if override and not equals and os.path.exists(at_home(override)):
        given = shlex.quote(override)
        raise ConfigError("Q201.override_path", given=override, quoted=given)
    if not equals or not path.strip():
        raise ConfigError("Q201.override", given=override)
    names = path.strip().split(".")
    value = _value(text.strip(), _field(names))
    for name in reversed(names):
        value = {name: value}
    return dict(value)


def _value(text: str, annotation: Any) -> Any:
    """Read the value of an override: a field of text takes it as it was typed."""
    if not text:
        return ""
    try:
        value = yaml.load(text, _Loader)
    except _UNREADABLE:
        value = text
    if isinstance(value, str) and not isinstance(value, _Typed) and value != text:  # in quotes
        return value if _element(annotation) is None else [value]
    if _takes_text(annotation) and (_element(annotation) is None or not isinstance(value, list)):
        value = _Typed(text)  # with what YAML takes for a comment or a mapping
    return _settled(value, annotation)


def _merge(base: dict[str, Any], more: dict[str, Any]) -> None:
    for name, value in more.items():
        if isinstance(value, dict) and isinstance(base.get(name), dict):
            _merge(base[name], value)
        else:
            base[name] = value


def _both(given: Any, rival: Any) -> bool:
    return bool(given and rival)


def _given(given: Any, _: Any) -> bool:
    return given is not None


def _uneven(batch: Any, micro: Any) -> bool:
    return isinstance(batch, int) and isinstance(micro, int) and micro > 0 and batch % micro > 0


def _greedy(temperature: Any, candidates: Any) -> bool:
    return temperature == 0 and isinstance(candidates, int) and candidates > 1


def _without_adapter(adapter: Any, lora: Any) -> bool:
    return adapter is None and bool(lora)


_RIVALS: tuple[tuple[str, str, Callable[[Any, Any], bool]], ...] = (
    ("data.eval", "data.holdout", _both),
    ("data.holdout", "data.eval", _both),
    ("model.preset", "model.init", _both),
    ("train.batch_size", "train.micro_batch_size", _uneven),
    ("train.adapter", "lora", _without_adapter),
    ("generate.temperature", "generate.candidates", _greedy),
)
"""A field of the command line, one of the recipe, and when the two contradict each other."""
_NO_SHAPE = ("init", "preset", "quantize", "offload")
"""Fields of the model that say nothing of its shape."""


def _set_rivals_aside(recipe: dict[str, Any], given: dict[str, Any]) -> None:
    """Let a field among the overrides take the place of one of the recipe that contradicts it."""
    shape = [f"model.{name}" for name in recipe.get("model") or {} if name not in _NO_SHAPE]
    for field, rival, contradict in (*_RIVALS, *(("model.init", one, _given) for one in shape)):
        named, before = _holders(given, field), _holders(recipe, rival)
        if not named or not before or _holders(given, rival):
            continue
        (values, name), (held, rival_name) = named, before
        if contradict(values[name], held[rival_name]):
            value = held.pop(rival_name)
            shown = ",".join(map(str, value)) if isinstance(value, list) else str(value)
            about = {"field": field, "given": _spelt(values[name])}
            logger.info(say("log.set_aside", rival=rival, value=shown, **about))


def _holders(values: dict[str, Any], place: str) -> tuple[dict[str, Any], str] | None:
    """Find the mapping that holds a field, and the field's name in it."""
    section, _, name = place.rpartition(".")
    held = values.get(section) if section else values
    return (held, name) if isinstance(held, dict) and name in held else None


def _spelt(value: Any) -> str:
    return "null" if value is None else str(value)


def _options(annotation: Any) -> tuple[Any, ...]:
    """List what a field may be: the parts of a union, text for names to choose from."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _options(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return tuple(option for part in get_args(annotation) for option in _options(part))
    if origin is Literal:
        return tuple({type(choice) for choice in get_args(annotation)})
    return (annotation,)


def _element(annotation: Any) -> Any:
    """Give what a field's list consists of, or None where it takes no list."""
    found = (get_args(one)[0] for one in _options(annotation) if get_origin(one) is tuple)
    return next(found, None)


def _takes_text(annotation: Any) -> bool:
    """Say whether a value is text: the field's own, or a list of text, which commas part."""
    element = _element(annotation)
    options = _options(annotation if element is None else element)
    return str in options or Path in options


def _within(annotation: Any, name: str) -> Any:
    """Find the type of a field in a section, or of an entry in a mapping; Any where unknown."""
    for option in _options(annotation):
        if isinstance(option, type) and issubclass(option, Section):
            field = option.model_fields.get(name)
            return Any if field is None else field.annotation
        if get_origin(option) is dict:
            return get_args(option)[1]
    return Any


def _field(names: Sequence[str]) -> Any:
    annotation: Any = Config
    for name in names:
        annotation = _within(annotation, name)
    return annotation


def _settled(value: Any, annotation: Any) -> Any:
    """Give each scalar that was typed without quotes the meaning that its field has for it."""
    if isinstance(value, Mapping):
        return {
            str(name) if isinstance(name, str) else name: _settled(one, _within(annotation, name))
            for name, one in value.items()
        }
    if isinstance(value, list):
        element = _element(annotation)
        return [_settled(one, Any if element is None else element) for one in value]
    return _meaning(value, annotation) if isinstance(value, _Typed) else value


def _meaning(typed: _Typed, annotation: Any) -> Any:
    text, options, is_text = str(typed), _options(annotation), _takes_text(annotation)
    if text in _NOTHING and (type(None) in options or not is_text or not text):
        return None
    if is_text:
        return text
    if text.lower() in _SWITCHES and int not in options and float not in options:
        return _SWITCHES[text.lower()]
    if _INTEGER.fullmatch(text):
        return int(text)
    return float(text) if _DECIMAL.fullmatch(text) else text


def _with_preset(values: dict[str, Any]) -> dict[str, Any]:
    """Put the preset's architecture under what the recipe says; `init` takes its place."""
    model = values.get("model")
    if not isinstance(model, dict) or not model.get("preset") or model.get("init"):
        return values
    name = model["preset"]
    if name not in shipped("presets"):
        known = shipped("presets")
        near = _nearest(str(name), known)
        raise ConfigError("Q201.preset", name=name, known=", ".join(known), near=near)
    file = resources.files("quatrain") / "recipes" / "presets" / f"{name}.yaml"
    return {**values, "model": {**_read_yaml(file.read_text("utf-8"), name, ModelConfig), **model}}


def _problems(error: ValidationError, values: dict[str, Any]) -> Iterator[Sentence]:
    """Say each error in one line; add the rules between fields that pydantic did not get to."""
    for one in error.errors():
        if one["type"] == "extra_forbidden":
            yield _unknown(one["loc"])
        else:
            yield from problems_in(one)
    yield from _rules_between_good_fields(error, values)


def _rules_between_good_fields(
    error: ValidationError, values: dict[str, Any]
) -> Iterator[Sentence]:
    bad = {tuple(one["loc"][:2]) for one in error.errors()}
    for name, section in _sections().items():
        given = values.get(name)
        if not isinstance(given, dict) or not any(loc[:1] == (name,) for loc in bad):
            continue
        good = {k: v for k, v in given.items()
                if k in section.model_fields and (name, k) not in bad}  # fmt: skip
        try:
            section.model_validate(good)
        except ValidationError as inner:
            for one in inner.errors():
                if one["type"] == "value_error" and not one["loc"]:
                    yield from problems_in(one)


def _sections() -> dict[str, type[Section]]:
    fields = Config.model_fields.items()
    return {
        name: field.annotation
        for name, field in fields
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
    }


def fields_of(name: str) -> list[str]:
    """Name the fields that an option could mean: by another trainer's name, or by their own."""
    leaf = plain(name)
    own = [
        f"{section}.{field}"
        for section, fields in _sections().items()
        for field in fields.model_fields
        if leaf in (field, f"{section}.{field}", f"{section}_{field}")
    ]
    return fields_called(name) or own or ["run_dir"] * (leaf == "run_dir")


def _unknown(loc: tuple[int | str, ...]) -> Sentence:
    """Name an unknown field and the nearest known one, in its section or in another."""
    place, leaf = ".".join(str(part) for part in loc), str(loc[-1])
    here = place.rpartition(".")[0]
    known = [*Config.model_fields]
    for name, section in _sections().items():
        known += [f"{name}.{field}" for field in section.model_fields]
    by_leaf: dict[str, str] = {}
    for path in sorted(known, key=lambda path: path.rpartition(".")[0] != here):
        by_leaf.setdefault(path.rpartition(".")[2], path)
    in_this_section = [name for name, path in by_leaf.items() if path.rpartition(".")[0] == here]
    near = (
        [name for name in by_leaf if name == leaf]
        or [path.rpartition(".")[2] for path in fields_called(leaf) if path in known]
        or difflib.get_close_matches(leaf, in_this_section, n=1)
        or difflib.get_close_matches(leaf, by_leaf, n=1)
    )
    hint = Sentence.of("errors.near", name=by_leaf[near[0]]) if near else ""
    return Sentence.of("rules.unknown", place=place, near=hint)


def _nearest(given: str, known: Sequence[str]) -> str:
    found = difflib.get_close_matches(given, known, n=1, cutoff=0.6)
    return Sentence.of("errors.near", name=found[0]) if found else ""
