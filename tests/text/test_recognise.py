"""Chat formats of models made elsewhere, by their templates: our ids are the template's."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from french_lines import french_lines
from quatrain.errors import CheckpointError
from quatrain.text.chat import CHATML, LLAMA3, LLAMA4, ChatFormat
from quatrain.text.conversation import Message
from quatrain.text.recognise import find_template, recognise
from quatrain.text.tokenizer import Names, Tokenizer, train_bpe

LINES = french_lines(500)
QUESTION = (Message("user", "Où est-ce ?"),)
SYSTEM = (Message("system", "Sois bref."), *QUESTION)
LONGER = (*QUESTION, Message("assistant", "Là."), Message("user", "Et lui ?"))
SAID = 'Tu t\'appelles "Lise".'

# Written as the models' authors write theirs: a default in an if, as a literal with escapes.
CHATML_TEMPLATE = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}"
    "{{ '<|im_start|>system\\nTu t\\'appelles \"Lise\".<|im_end|>\\n' }}{% endif %}"
    "{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
LLAMA3_TEMPLATE = (
    "{% for m in messages %}{% set text = '<|start_header_id|>' + m['role'] + "
    "'<|end_header_id|>\\n\\n' + m['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.first %}{% set text = bos_token + text %}{% endif %}{{ text }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}"
    "{% endif %}"
)
LLAMA4_TEMPLATE = (
    "{{- bos_token }}{%- for m in messages %}{{- '<|header_start|>' + m['role'] + "
    "'<|header_end|>\\n\\n' }}{{- m['content'] }}{{- '<|eot|>' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|header_start|>assistant<|header_end|>\\n\\n' }}"
    "{%- endif %}"
)
TEMPLATES = {
    "chatml": (CHATML_TEMPLATE, CHATML.model_copy(update={"default_system": SAID})),
    "chatml without a default": (CHATML_TEMPLATE.replace("system\\n", "systeme\\n"), CHATML),
    "llama3": (LLAMA3_TEMPLATE, LLAMA3),
    "llama4": (LLAMA4_TEMPLATE, LLAMA4),
}
EVERY_TEMPLATE = pytest.mark.parametrize("name", TEMPLATES)


def tokenizer_for(chat: ChatFormat) -> Tokenizer:
    return train_bpe(LINES, 400, control_tokens=chat.control_tokens())


def by_value(chat: ChatFormat) -> dict[str, Any]:
    return {**chat.model_dump(), "stop": set(chat.stop)}


@EVERY_TEMPLATE
def test_a_template_is_recognised(name: str) -> None:
    template, expected = TEMPLATES[name]
    found = recognise(template, tokenizer_for(expected))
    assert found is not None
    assert by_value(found) == by_value(expected)


@pytest.mark.parametrize("name", ["chatml", "llama3", "llama4"])
def test_our_ids_are_those_of_the_models_own_template(name: str, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    template, expected = TEMPLATES[name]
    tokenizer_for(expected).save(tmp_path)
    (tmp_path / "chat_template.jinja").write_text(template)
    tokenizer = Tokenizer.load(tmp_path)
    chat = ChatFormat.of(tmp_path, tokenizer)
    theirs = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    for messages in (QUESTION, SYSTEM, LONGER):
        dicts = [{"role": message.role, "content": message.content} for message in messages]
        ids = theirs.apply_chat_template(dicts, add_generation_prompt=True, return_dict=False)
        assert chat.encode_prompt(messages, tokenizer) == ids


@EVERY_TEMPLATE
def test_what_we_export_is_recognised_as_itself(name: str) -> None:
    _, chat = TEMPLATES[name]
    found = recognise(chat.chat_template(), tokenizer_for(chat))
    assert found is not None
    assert by_value(found) == by_value(chat)


def test_a_default_may_stand_outside_of_a_literal() -> None:
    template = "{% if x %}<|im_start|>system\nSois bref.<|im_end|>\n{% endif %}<|im_start|>"
    found = recognise(template, tokenizer_for(CHATML))
    assert found is not None
    assert found.default_system == "Sois bref."


@pytest.mark.parametrize(
    "written",
    [
        "'<|im_start|>system\\n' + content + '<|im_end|>'",
        "<|im_start|>system\n{{ content }}<|im_end|>",
        '"<|im_start|>system\\n" ~ content ~ "<|im_end|>"',
        "'<|im_start|>system\\n\\x<|im_end|>'",
    ],
)
def test_a_message_that_is_not_text_is_no_default(written: str) -> None:
    found = recognise(written, tokenizer_for(CHATML))
    assert found is not None
    assert found.default_system == ""


def test_a_beginning_is_the_tokenizers_own_where_the_template_writes_it() -> None:
    tokenizer = train_bpe(LINES, 400, control_tokens=("<s>", *CHATML.control_tokens()))
    tokenizer.names = Names(bos="<s>")
    for template, begin in (("{{ bos_token }}" + CHATML_TEMPLATE, "<s>"), (CHATML_TEMPLATE, "")):
        found = recognise(template, tokenizer)
        assert found is not None
        assert found.begin == begin


def test_a_pad_that_the_tokenizer_lacks_is_replaced() -> None:
    names = [name for name in LLAMA3.control_tokens() if name != LLAMA3.pad]
    found = recognise(LLAMA3_TEMPLATE, train_bpe(LINES, 400, control_tokens=names))
    assert found is not None
    assert found.pad == "<|end_of_text|>"


def test_what_is_left_out_is_said(caplog: pytest.LogCaptureFixture) -> None:
    template = "{{ strftime_now('%d') }}{{ '<think>' }}" + CHATML_TEMPLATE
    with caplog.at_level(logging.WARNING):
        recognise(template, tokenizer_for(CHATML))
    assert "the template can also write a date, which" in caplog.text
    assert "write a mark of thinking, which" in caplog.text


@pytest.mark.parametrize(
    "template", ["", "[INST] {{ messages[0]['content'] }} [/INST]", "<|im_start|>{{ eos_token }}"]
)
def test_another_template_is_not_recognised(template: str, tmp_path: Path) -> None:
    tokenizer = tokenizer_for(CHATML)
    assert recognise(template, tokenizer) is None
    (tmp_path / "chat_template.jinja").write_text(template)
    with pytest.raises(CheckpointError, match=r"\[Q430\].*template is not one that is known"):
        ChatFormat.of(tmp_path, tokenizer)


def test_a_template_of_tokens_that_the_tokenizer_lacks_is_not_recognised() -> None:
    assert recognise(CHATML_TEMPLATE, tokenizer_for(LLAMA3)) is None


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ("one", "one"),
        ([{"name": "tool_use", "template": "two"}, {"name": "default", "template": "one"}], "one"),
        ([{"name": "tool_use", "template": "two"}, 7], None),
        (7, None),
        (None, None),
    ],
)
def test_templates_are_found_in_the_tokenizers_config(
    written: Any, found: str | None, tmp_path: Path
) -> None:
    assert find_template(tmp_path) is None
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": written}))
    assert find_template(tmp_path) == found
    (tmp_path / "chat_template.jinja").write_text("a file goes first")
    assert find_template(tmp_path) == "a file goes first"


def test_our_own_file_goes_before_a_template(tmp_path: Path) -> None:
    chat = CHATML.model_copy(update={"after_turn": ""})
    chat.save(tmp_path)
    (tmp_path / "chat_template.jinja").write_text(CHATML_TEMPLATE)
    assert ChatFormat.of(tmp_path, tokenizer_for(CHATML)) == chat
