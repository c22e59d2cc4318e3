"""A directory that was written here answers in transformers' pipeline, and stops."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import pipeline

from foreign import silently, text_tools
from quatrain.config import GenerateConfig
from quatrain.generate.answer import Answerer
from quatrain.generate.engine import complete
from quatrain.hub.convert import Conversion, convert
from quatrain.text.conversation import Message
from tiny import tiny_config, tiny_model

QUESTION, SETTINGS = "Quelle est la capitale de la France ?", GenerateConfig(max_new_tokens=12)


def test_the_pipeline_gives_our_answer_by_its_own_template_and_stops(tmp_path: Path) -> None:
    model, base = tiny_model(tiny_config(vocab_size=512)), tmp_path / "base"
    model.save_pretrained(base)
    text_tools(base)
    answerer = Answerer(base)
    prompt = answerer.chat.encode_prompt([Message("user", QUESTION)], answerer.tokenizer)
    said = complete(answerer.model, [prompt], SETTINGS, set())[0].ids
    last = next(at for at in range(3, 12) if said[at] not in said[:at])
    stop = answerer.tokenizer.control_id("<|eot|>")
    with torch.no_grad():  # where it said that token, it now ends its turn
        model.lm_head.weight[[stop, said[last]]] = model.lm_head.weight[[said[last], stop]]
    model.save_pretrained(base)
    convert(base, tmp_path / "result", Conversion(to="hf", check=False))

    ours = Answerer(tmp_path / "result").answer(QUESTION, max_new_tokens=12)
    assert (ours.finish_reason, ours.completion_tokens) == ("stop", last + 1)
    speak = silently(pipeline, "text-generation", model=str(tmp_path / "result"))
    (found,) = silently(speak, [{"role": "user", "content": QUESTION}], max_new_tokens=12)
    assert found["generated_text"][-1] == {"role": "assistant", "content": str(ours)}
