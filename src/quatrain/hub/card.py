"""The model card: README.md of a model directory, for people and for the Hub."""

from __future__ import annotations

from pathlib import Path

import yaml

from quatrain import __version__
from quatrain.files import write_text
from quatrain.hub.check import Agreement
from quatrain.hub.export import summary
from quatrain.hub.source import Source

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
    front = {
        "language": ["fr", "en"],
        "pipeline_tag": "text-generation",
        "library_name": {"gguf": "gguf", "peft": "peft"}.get(to, "transformers"),
        "tags": ["llama-4", "question-answering", "quatrain"],
    }
    about = {"from": f"{source.origin.name} ({source.kind})", "format": to}
    about |= {"dtype": dtype} if dtype else {}
    table = "\n".join(
        f"| {name} | {value} |"
        for name, value in {**about, **summary(source.config), **source.notes}.items()
    )
    write_text(
        directory / CARD,
        f"---\n{yaml.safe_dump(front, allow_unicode=True, sort_keys=False)}---\n\n"
        f"# {directory.name.strip('.').split('.tmp-')[0]}\n\n"
        f"Converted by Quatrain {__version__}.\n\n| | |\n|---|---|\n{table}\n\n"
        f"## Check\n\n{_checked(agreement)}\n\n"
        "## Licence\n\nA conversion changes no licence: that of the source's weights holds.\n",
    )


def _checked(agreement: Agreement | None) -> str:
    if agreement is None:
        return "**Not checked**: converted with `--no-check`."
    return (
        f"Source and result were compared on {agreement.prompts} prompts, in float32 and on "
        f"weights rounded alike: the logits differ by {agreement.max_logit_difference:.3g} at "
        f"most, and {agreement.greedy_tokens_equal} of {agreement.greedy_tokens} greedy tokens "
        "are equal."
    )
