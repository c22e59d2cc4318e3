"""The model card: README.md of a model directory, for users and for the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from quatrain import __version__
from quatrain.config import Config
from quatrain.files import write_text
from quatrain.hub.check import Agreement, Rounding
from quatrain.hub.export import summary
from quatrain.hub.source import Source
from quatrain.model.locate import names_the_hub

CARD = "README.md"


def write_card(
    source: Source, directory: Path, to: str, dtype: str, agreement: Agreement | None
) -> None:
    """Write the card of a converted model.

    Args:
        source: as it was written.
        directory: of the model.
        to: the format.
        dtype: of its weights, or nothing.
        agreement: what the check found; None where it was left out.
    """
    about = {"from": f"{source.origin.name} ({source.kind})", "format": to}
    about |= {"dtype": dtype} if dtype else {}
    _write(
        directory,
        directory.name.strip(".").split(".tmp-")[0],
        _front(["fr", "en"], {"gguf": "gguf", "peft": "peft"}.get(to, "transformers")),
        f"Converted by Quatrain {__version__}.",
        {**about, **summary(source.config), **source.notes},
        f"## Check\n\n{_checked(agreement)}\n\n"
        "## Licence\n\nConversion does not change the licence: that of the source applies.\n",
    )


def write_run_card(
    directory: Path, config: Config, step: int, tokens: int, evaluation: dict[str, Any] | None
) -> None:
    """Write the card of a model that a run trained; its licence is left for the user to say.

    Args:
        directory: of the checkpoint.
        config: of the run.
        step: after which it was written.
        tokens: read until then.
        evaluation: the row of metrics of this step; None where there was none.
    """
    name, train = config.run_dir.resolve().name, config.train
    front = _front(["fr"], "peft" if train.adapter else "transformers")
    if config.model.init and names_the_hub(config.model.init):
        front["base_model"] = config.model.init
    if datasets := [source for source in config.data.train if names_the_hub(source)]:
        front["datasets"] = datasets
    if evaluation is not None and evaluation["f1"] is not None:
        front["model-index"] = [{"name": name, "results": [_result(config, evaluation)]}]
    verb = "Fine-tuned" if train.task == "sft" else "Pretrained"
    about = {
        "started from": config.model.init or "random weights",
        "trained on": ", ".join(config.data.train),
        "steps": f"{step:,} of {train.max_steps:,}" if train.max_steps else f"{step:,}",
        "tokens read": f"{tokens:,}",
    }
    _write(
        directory,
        name,
        front,
        f"{verb} by Quatrain {__version__}.",
        {**about, **summary(config.model)},
        f"## Scores\n\n{_scored(config, evaluation)}\n\n"
        '## Use\n\n```bash\nquatrain ask DIRECTORY "Bonjour !"\n```\n\n'
        "DIRECTORY is the directory of this file. transformers can open it too.\n\n"
        "## Licence\n\nNot stated. It depends on the licences of the initial weights and of the "
        "data. Before you share this model, state it here and as `license` in the front matter.\n",
    )


def _front(languages: list[str], library: str) -> dict[str, Any]:
    return {
        "language": languages,
        "pipeline_tag": "text-generation",
        "library_name": library,
        "tags": ["llama-4", "question-answering", "quatrain"],
    }


def _write(
    directory: Path, title: str, front: dict[str, Any], made: str, about: dict[str, Any], rest: str
) -> None:
    table = "\n".join(f"| {name} | {_cell(value)} |" for name, value in about.items())
    write_text(
        directory / CARD,
        f"---\n{yaml.safe_dump(front, allow_unicode=True, sort_keys=False)}---\n\n"
        f"# {title}\n\n{made}\n\n| | |\n|---|---|\n{table}\n\n{rest}",
    )


def _cell(value: Any) -> str:
    """Keep a value inside its cell of a Markdown table."""
    return str(value).replace("|", "\\|").replace("\n", " ")


def _judged_on(config: Config) -> str:
    if config.data.eval:
        return ", ".join(Path(source).name for source in config.data.eval)
    return f"held-out part of {', '.join(Path(source).name for source in config.data.train)}"


def _result(config: Config, evaluation: dict[str, Any]) -> dict[str, Any]:
    """Describe scores as the Hub's model-index has them."""
    sources = config.data.eval or config.data.train
    on_hub = len(sources) == 1 and names_the_hub(sources[0])
    return {
        "task": {"type": "question-answering", "name": "Question answering"},
        "dataset": {"type": sources[0] if on_hub else "custom", "name": _judged_on(config)},
        "metrics": [
            {"type": name, "name": title, "value": round(float(evaluation[name]), 2)}
            for name, title in (("exact_match", "Exact match (%)"), ("f1", "F1 (%)"))
        ],
    }


def _scored(config: Config, evaluation: dict[str, Any] | None) -> str:
    if evaluation is None:
        return "Not evaluated at this step."
    loss = evaluation["eval_loss"]
    parts = [] if loss is None else [f"a loss of {loss:.3f} nats per token"]
    if evaluation["f1"] is not None:
        parts.append(f"exact match {evaluation['exact_match']:.1f} %")
        parts.append(f"F1 {evaluation['f1']:.1f} %, after French normalisation")
    most = config.evaluate.questions or 0
    return f"On {_judged_on(config)} ({most:,} questions at most): {', '.join(parts)}."


def _checked(agreement: Agreement | None) -> str:
    if agreement is None:
        return "**Not checked**: converted with `--no-check`."
    return (
        f"Source and result were compared on {agreement.prompts} prompts, in float32 and with "
        f"equally rounded weights: the logits differ by {agreement.max_logit_difference:.3g} at "
        f"most, and {agreement.greedy_tokens_equal} of {agreement.greedy_tokens} greedy tokens "
        f"are equal. Checked by {agreement.judged_by}. {_cost(agreement.rounding)}"
        + "".join(
            f"\n\n{one.by} agrees on `{one.file}`: log-probabilities differ by "
            f"{one.mean_log_probability_difference:.2g} on average, and {one.likeliest_equal} of "
            f"{one.places} likeliest tokens are equal."
            for one in agreement.gguf
        )
    )


def _cost(rounding: Rounding) -> str:
    if rounding.nothing:
        return "Nothing was rounded."
    return (
        f"Rounding changed the source's logits by {rounding.max_logit_difference:.3g} at most, and "
        f"left {rounding.greedy_tokens_equal} of {rounding.greedy_tokens} greedy tokens equal."
    )
