"""`quatrain convert`."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from quatrain.cli.telling import telling
from quatrain.cli.training import asking, tuning
from quatrain.cli.usage import refuse_unknown, size_of
from quatrain.errors import ConfigError
from quatrain.progress import working
from quatrain.words import say, tell

if TYPE_CHECKING:
    from quatrain.hub.check import Agreement

_GGUF, _ADAPTER = "gguf", "adapter"


def run_conversion(
    model: str,
    directory: Path,
    to: str,
    experts: int | None,
    dtype: str | None,
    quantize: str | None,
    base: Path | None,
    merge: bool,
    check: bool,
    shard_size: str,
    force: bool,
    repository: str | None,
    public: bool,
    as_json: bool,
) -> None:
    """Convert MODEL, upload it if asked, and report how close it is to the source."""
    if public and repository is None:
        raise ConfigError("Q208.public")
    shard_bytes = size_of(shard_size)
    from quatrain.hub.convert import Conversion, convert

    _refuse_unknown(to, dtype, quantize, experts)
    asked = Conversion(
        to=to, experts=experts, dtype=dtype, quantize=quantize,  # type: ignore[arg-type]
        base=base, merge=merge, check=check, shard_bytes=shard_bytes, force=force,
    )  # fmt: skip
    if repository is not None:
        from quatrain.hub.push import push, refuse_unready

        refuse_unready(repository)
    url = None
    with telling():
        with working("progress.converting", source=model, to=to):
            done = convert(model, directory, asked)
        if repository is not None:
            with working("progress.pushing", name=repository):
                url = push(done.directory, repository, public)
    agreement = done.agreement.as_dict() if done.agreement else None
    if as_json:
        report = {"directory": str(done.directory), "to": to, "dtype": done.dtype,
                  "check": agreement, "notes": done.notes, "pushed": url}  # fmt: skip
        print(json.dumps(report, ensure_ascii=False))
        return
    print(f"{done.directory}: {to}, {tell(done.dtype)}")
    for name, value in done.notes.items():
        print(f"  {say(f'cli.convert.{name}')}: {tell(value)}")
    has_gguf = _GGUF in (to, done.kind) and (merge or done.kind != _ADAPTER)
    _say_how_near(done.agreement, done.dtype, has_gguf)
    sys.stdout.flush()  # what comes next comes last, where both go to one file
    for line in _what_next(done.directory, done.notes.get("base")):
        print(line, file=sys.stderr)
    if url is not None:
        print(say("cli.convert.pushed_public" if public else "cli.convert.pushed_private", url=url))


def _refuse_unknown(to: str, dtype: str | None, quantize: str | None, experts: int | None) -> None:
    """Refuse values of options that do not exist. Raises Q208."""
    from quatrain.hub.convert import Dtype, Format, Kind

    options = (("--to", to, Format), ("--dtype", dtype, Dtype), ("--quantize", quantize, Kind))
    for name, value, kinds in options:
        refuse_unknown(name, value, get_args(kinds))
    if experts is not None and experts < 1:
        raise ConfigError("Q208.no_experts", experts=experts)


def _what_next(directory: Path, base: str | None) -> Iterator[str]:
    """Say what the result is for: to be asked and trained here, or to be opened elsewhere."""
    from quatrain.model.hf_config import DENSE_TYPES
    from quatrain.model.locate import is_adapter, model_type_of
    from quatrain.model.stranger import is_gguf

    file = next(iter(sorted(directory.glob("*.gguf"))), None)
    alone = is_adapter(directory) or (file is not None and file.name.startswith(_ADAPTER))
    kind = model_type_of(str(base if alone else directory))
    if file is not None:
        needed = base if base and is_gguf(Path(base)) else "BASE.gguf"
        words = ["llama-cli", "-m", *([needed, "--lora"] if alone else []), str(file)]
        yield say("cli.convert.run", command=shlex.join(words))
        if alone and needed != base:
            making = shlex.join(["quatrain", "convert", str(base), "NEW", "--to", "gguf"])
            yield say("cli.convert.base_made", command=making)
        if (directory / "Modelfile").exists():
            words = ["ollama", "create", "NAME", "-f", str(directory / "Modelfile")]
            yield say("cli.convert.run", command=shlex.join(words))
    elif alone and kind in DENSE_TYPES:
        yield say(
            "cli.convert.open", command=f"PeftModel.from_pretrained(BASE, {str(directory)!r})"
        )
    elif kind in DENSE_TYPES or kind == "llama4":
        loader = "AutoModelForImageTextToText" if kind == "llama4" else "AutoModelForCausalLM"
        yield say("cli.convert.open", command=f"{loader}.from_pretrained({str(directory)!r})")
    else:
        yield asking(directory)
        yield tuning(directory)


def _say_how_near(found: Agreement | None, dtype: str, has_gguf: bool) -> None:
    """Print the error of the conversion, the cost of rounding, and checks by other programs."""
    if found is None:
        print(say("cli.convert.unchecked"), file=sys.stderr)
        return
    print(say("cli.convert.checked", prompts=found.prompts, most=found.max_logit_difference,
              equal=found.greedy_tokens_equal, tokens=found.greedy_tokens,
              by=found.judged_by))  # fmt: skip
    cost = found.rounding
    if cost.nothing:
        print(say("cli.convert.not_rounded"))
    else:
        print(say("cli.convert.rounded", dtype=dtype, most=cost.max_logit_difference,
                  equal=cost.greedy_tokens_equal, tokens=cost.greedy_tokens))  # fmt: skip
    for one in found.gguf:
        print(say("cli.convert.judged", by=one.by, file=one.file, places=one.places,
                  mean=one.mean_log_probability_difference, equal=one.likeliest_equal))  # fmt: skip
    if has_gguf and not found.gguf:
        print(say("cli.convert.not_judged"), file=sys.stderr)
