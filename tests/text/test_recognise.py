"""Chat formats of models made elsewhere: our ids equal their template's, or they are refused."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, normalizers, pre_tokenizers

from french_lines import french_lines
from quatrain.errors import CheckpointError
from quatrain.text.chat import CHATML, LLAMA3, LLAMA4, ChatFormat
from quatrain.text.conversation import Conversation, Message
from quatrain.text.recognise import chat_format_of, find_template, recognise
from quatrain.text.sandbox import render
from quatrain.text.tokenizer import Names, Tokenizer, train_bpe
from templates import QWEN25, SMOLLM3, TODAY

LINES = french_lines(500)
QUESTION = (Message("user", "Où est-ce ?"),)
SYSTEM = (Message("system", "Sois bref."), *QUESTION)
LONGER = (*QUESTION, Message("assistant", "Là."), Message("user", "Et lui ?"))
WHOLE = (*SYSTEM, Message("assistant", "« Là-bas ! »"))
SAID = 'Tu t\'appelles "Lise".'

# Written as the models' authors write theirs: a default in an if, as a literal with escapes.
CHATML_TEMPLATE = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}"
    "{{ '<|im_start|>system\\nTu t\\'appelles \"Lise\".<|im_end|>\\n' }}{% endif %}"
    "{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
IN_A_VARIABLE = (
    "{% set said = 'Réponds' %}{% set said = said ~ ' en un mot.' %}"
    "{% if messages[0].role == 'system' %}{% set said = messages[0].content %}"
    "{% set messages = messages[1:] %}{% endif %}"
    "{{ '<|im_start|>system\n' + said + '<|im_end|>\n' }}"
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{% generation %}{{ m.content }}{% endgeneration %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3_TEMPLATE = (
    "{% for m in messages %}{% set text = '<|start_header_id|>' + m['role'] + "
    "'<|end_header_id|>\\n\\n' + m['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.first %}{% set text = bos_token + text %}{% endif %}{{ text }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}"
    "{% endif %}"
)
DATED = (  # as Llama 3.1's: a system message is always written, and begins with dates
    "{{- bos_token }}{%- if not date_string is defined %}{%- set date_string = '26 Jul 2024' %}"
    "{%- endif %}{%- if messages[0]['role'] == 'system' %}"
    "{%- set said = messages[0]['content'] | trim %}{%- set messages = messages[1:] %}"
    "{%- else %}{%- set said = '' %}{%- endif %}"
    "{{- '<|start_header_id|>system<|end_header_id|>\n\n' }}"
    "{{- 'Cutting Knowledge Date: December 2023\n' }}"
    "{{- 'Today Date: ' + date_string + '\n\n' }}{{- said }}{{- '<|eot_id|>' }}"
    "{%- for m in messages %}{{- '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' }}"
    "{{- m.content | trim + '<|eot_id|>' }}{%- endfor %}"
    "{%- if add_generation_prompt %}"
    "{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"
)
FRAMED = (  # as SmolLM3's: text on both sides of a system message, and a default without it
    "{{- '<|im_start|>system\n## Metadata\n\nReasoning Mode: /think\n\n' }}"
    "{%- if messages[0].role == 'system' %}{{- '## Custom\n\n' + messages[0].content + '\n\n' }}"
    "{%- set messages = messages[1:] %}{%- else %}{{- 'You are a helper.\n\n' }}{%- endif %}"
    "{{- '<|im_end|>\n' }}{%- for m in messages %}"
    "{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
LLAMA4_TEMPLATE = (
    "{{- bos_token }}{%- for m in messages %}{{- '<|header_start|>' + m['role'] + "
    "'<|header_end|>\\n\\n' }}{{- m['content'] }}{{- '<|eot|>' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|header_start|>assistant<|header_end|>\\n\\n' }}"
    "{%- endif %}"
)
THINKING = (
    "## Metadata\n\nToday Date: 26 July 2024\nReasoning Mode: /think\n\n## Custom Instructions\n\n"
)
PLAIN_CHATML = CHATML.chat_template()
RENAMED = "m['role'].replace('assistant', 'gpt').replace('user', 'human')"
TEMPLATES: dict[str, tuple[str, ChatFormat]] = {
    "chatml": (CHATML_TEMPLATE, CHATML.model_copy(update={"default_system": SAID})),
    "a default in a variable": (
        IN_A_VARIABLE,
        CHATML.model_copy(update={"default_system": "Réponds en un mot."}),
    ),
    "no line feed after a turn": (
        CHATML_TEMPLATE.replace("<|im_end|>\\n", "<|im_end|>").replace(
            " + '\\n' }}{% endfor", " }}{% endfor"
        ),
        CHATML.model_copy(update={"default_system": SAID, "after_turn": ""}),
    ),
    "two line feeds after the role": (
        CHATML_TEMPLATE.replace("['role'] + '\\n'", "['role'] + '\\n\\n'")
        .replace("assistant\\n", "assistant\\n\\n")
        .replace("system\\n", "system\\n\\n"),
        CHATML.model_copy(update={"default_system": SAID, "after_header": "\n\n"}),
    ),
    "renamed roles": (
        CHATML_TEMPLATE.replace("m['role'] + '", RENAMED + " + '").replace(
            "assistant\\n", "gpt\\n"
        ),
        CHATML.model_copy(
            update={"default_system": SAID, "assistant_role": "gpt", "user_role": "human"}
        ),
    ),
    "llama3": (LLAMA3_TEMPLATE, LLAMA3),
    "llama3 with dates": (
        DATED,
        LLAMA3.model_copy(
            update=dict.fromkeys(
                ("default_system", "before_system"),
                "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n",
            )
        ),
    ),
    "a framed system message": (
        FRAMED,
        CHATML.model_copy(
            update={
                "default_system": "## Metadata\n\nReasoning Mode: /think\n\nYou are a helper.\n\n",
                "before_system": "## Metadata\n\nReasoning Mode: /think\n\n## Custom\n\n",
                "after_system": "\n\n",
            }
        ),
    ),
    "llama4": (LLAMA4_TEMPLATE, LLAMA4),
    "qwen2.5": (QWEN25, CHATML.model_copy(update={"default_system": "You answer in French."})),
    "smollm3": (
        SMOLLM3.replace(TODAY, '"26 July 2024"'),  # transformers says the day that it is
        CHATML.model_copy(
            update={
                "default_system": THINKING + "Think, then answer.\n\n",
                "before_system": THINKING,
                "after_system": "\n\n",
            }
        ),
    ),
}
EVERY_TEMPLATE = pytest.mark.parametrize("name", TEMPLATES)


def tokenizer_for(chat: ChatFormat) -> Tokenizer:
    return train_bpe(LINES, 400, control_tokens=chat.control_tokens())


def test_the_day_that_smollm3_asks_for_is_always_the_same() -> None:
    template, expected = TEMPLATES["smollm3"]
    assert template != SMOLLM3
    assert by_value(recognise(SMOLLM3, tokenizer_for(expected))) == by_value(expected)


def by_value(chat: ChatFormat) -> dict[str, Any]:
    return {**chat.model_dump(), "stop": set(chat.stop)}


def directory_of(path: Path, template: str, tokenizer: Tokenizer) -> Path:
    tokenizer.save(path)
    (path / "chat_template.jinja").write_text(template, encoding="utf-8")
    return path


def ids_of_theirs(directory: Path, messages: tuple[Message, ...]) -> list[int]:
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    dicts = [{"role": message.role, "content": message.content} for message in messages]
    prompt = messages[-1].role == "user"
    ids: list[int] = theirs.apply_chat_template(
        dicts, add_generation_prompt=prompt, return_dict=False
    )
    return ids


@EVERY_TEMPLATE
def test_a_template_is_recognised_by_what_it_writes(name: str) -> None:
    template, expected = TEMPLATES[name]
    assert by_value(recognise(template, tokenizer_for(expected))) == by_value(expected)


@EVERY_TEMPLATE
def test_our_ids_are_those_of_the_models_own_template(name: str, tmp_path: Path) -> None:
    template, expected = TEMPLATES[name]
    directory = directory_of(tmp_path, template, tokenizer_for(expected))
    tokenizer = Tokenizer.load(directory)
    chat = chat_format_of(directory, tokenizer)
    for messages in (QUESTION, SYSTEM, LONGER):
        assert chat.encode_prompt(messages, tokenizer) == ids_of_theirs(directory, messages)
    encoded = chat.encode_conversation(Conversation(WHOLE, (), "", ""), tokenizer)
    assert encoded.ids == ids_of_theirs(directory, WHOLE)


@EVERY_TEMPLATE
def test_what_we_export_is_recognised_as_itself_and_writes_the_same(
    name: str, tmp_path: Path
) -> None:
    template, chat = TEMPLATES[name]
    tokenizer = tokenizer_for(chat)
    assert by_value(recognise(chat.chat_template(), tokenizer)) == by_value(chat)
    theirs = directory_of(tmp_path / "theirs", template, tokenizer)
    ours = directory_of(tmp_path / "ours", chat.chat_template(), tokenizer)
    for messages in (QUESTION, SYSTEM, LONGER):
        assert ids_of_theirs(ours, messages) == ids_of_theirs(theirs, messages)
        assert tokenizer.encode_joined(chat.written(messages)) == ids_of_theirs(ours, messages)


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("", "does not write each content once and in order"),
        ("[INST] {{ messages[0]['content'] }} [/INST]", "does not write each content once"),
        (
            "{% for m in messages %}{{ '[' + m.role + '] ' + m.content }}{% endfor %}",
            r"between two contents it writes '.user. '; it should be a control token",
        ),
        (
            PLAIN_CHATML.replace("+ content +", "+ 'Q: ' + content +"),
            "it writes '.*assistant.n' where '.*assistant.nQ: ' was expected",
        ),
        (
            "{% set s = messages[0].content if messages[0].role == 'system' else '' %}"
            "{% for m in messages if m.role != 'system' %}{{ '<|im_start|>' + m.role + '\n' + "
            "(s + '\n\n' if loop.first and s else '') + m.content + '<|im_end|>\n' }}{% endfor %}"
            "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
            "it writes .*Sois bref.*L.été.* where .*Sois bref",
        ),
        (
            PLAIN_CHATML.replace("message['content'] | trim", "message['content'] | trim | lower"),
            "does not write each content",
        ),
        (
            PLAIN_CHATML.replace(
                "message['content'] | trim", "message['content'].replace('«', '<')"
            ),
            "it writes '.*< Oui.*' where '.*« Oui",
        ),
        (
            PLAIN_CHATML.replace("'<|im_end|>\\n' }}", "'.<|im_end|>\\n' }}"),
            "between two contents it writes '.<.im_end",
        ),
        (
            PLAIN_CHATML.replace("assistant\\n' }}", "assistant\\n<think>\\n' }}"),
            "it writes '.*<think>.n' where '.*assistant.n' was expected",
        ),
        ("Bonjour. " + PLAIN_CHATML, "it begins with 'Bonjour.<.im_start"),
        (
            "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
            + PLAIN_CHATML,
            "cannot write a conversation with the roles system, user, assistant, user .no system",
        ),
        (
            "{% if messages | length > 2 %}{{ raise_exception('too long') }}{% endif %}"
            + PLAIN_CHATML,
            "cannot write a conversation with .*too long",
        ),
        ("{% for", "cannot write a conversation with .*end of template"),
        ("{{ messages.pop() }}" + PLAIN_CHATML, "cannot write a conversation with .*is unsafe"),
        ("{{ messages.__class__.mro() }}" + PLAIN_CHATML, "cannot write a conversation"),
        ("{{ (1).__class__.__base__.__subclasses__() }}" + PLAIN_CHATML, "cannot write a conv"),
        (
            PLAIN_CHATML.replace("<|im_end|>", "<|im_end|><|endoftext|>"),
            "it should be one control token",
        ),
    ],
)
def test_a_template_that_writes_another_prompt_is_refused(
    template: str, why: str, tmp_path: Path
) -> None:
    tokenizer = tokenizer_for(CHATML)
    with pytest.raises(CheckpointError, match=rf"\[Q435\].*{why}"):
        chat_format_of(directory_of(tmp_path, template, tokenizer), tokenizer)


def test_a_foreign_template_beside_llama_4s_tokens_is_not_taken_for_llama_4s(
    tmp_path: Path,
) -> None:
    template = LLAMA4_TEMPLATE.replace("m['content']", "'> ' + m['content']")
    tokenizer = tokenizer_for(LLAMA4)
    with pytest.raises(
        CheckpointError, match=r"\[Q435\].*it writes '.*' where '.*> ' was expected"
    ):
        chat_format_of(directory_of(tmp_path, template, tokenizer), tokenizer)


@pytest.mark.parametrize(
    "bomb",
    [
        "{{ 'a' * 10 ** 10 }}",
        "{{ 'a' | center(3000000000) }}",
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ ['a'] * 99999 }}",
    ],
)
def test_a_bomb_is_refused_in_seconds(bomb: str) -> None:
    with pytest.raises(CheckpointError, match=r"\[Q435\].*cannot write a conversation"):
        recognise(bomb + PLAIN_CHATML, tokenizer_for(CHATML))


def test_a_template_sees_no_secret_and_writes_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    seen = render("{{ HF_TOKEN }}{{ environ }}|{{ eos_token }}", [[]], {"eos_token": "</s>"})
    assert seen.each[0].error or seen.each[0].text == "|</s>"
    turns = [{"role": "user", "content": "x"}]
    seen = render("{{ HF_TOKEN }}|{{ eos_token }}", [turns], {"eos_token": "</s>"})
    assert [(one.text, one.error) for one in seen.each] == [("|</s>", "")]


def test_a_beginning_is_the_tokenizers_own_where_the_template_writes_it() -> None:
    tokenizer = train_bpe(LINES, 400, control_tokens=("<s>", *CHATML.control_tokens()))
    tokenizer.names = Names(bos="<s>")
    for template, begin in (("{{ bos_token }}" + CHATML_TEMPLATE, "<s>"), (CHATML_TEMPLATE, "")):
        assert recognise(template, tokenizer).begin == begin


def test_a_pad_that_the_tokenizer_lacks_is_replaced() -> None:
    names = [name for name in LLAMA3.control_tokens() if name != LLAMA3.pad]
    found = recognise(LLAMA3_TEMPLATE, train_bpe(LINES, 400, control_tokens=names))
    assert found.pad == "<|end_of_text|>"


def test_other_control_tokens_around_a_role_are_a_format_too(tmp_path: Path) -> None:
    chat = ChatFormat(
        begin="", header_start="<|role|>", header_end="<|said|>", after_header="",
        end_of_turn="<|done|>", end_of_text="<|done|>", stop=("<|done|>",), pad="<|fill|>",
    )  # fmt: skip
    tokenizer = tokenizer_for(chat)
    tokenizer.names = Names(bos=None, eos="<|done|>", pad="<|fill|>")
    directory = directory_of(tmp_path, chat.chat_template(), tokenizer)
    assert chat_format_of(directory, Tokenizer.load(directory)) == chat


def test_what_cannot_be_as_the_template_has_it_is_said(caplog: pytest.LogCaptureFixture) -> None:
    template = (
        PLAIN_CHATML.replace("{{- '<|im_start|>' + message['role'] + '\\n' + content",
            "{{- '<|im_start|>' + message['role'] + '\\n' }}{%- if loop.last and "
            "message['role'] == 'assistant' %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}"
            "{{- content")
    )  # fmt: skip
    dated = DATED.replace("'26 Jul 2024'", "strftime_now('%d %b %Y')")
    with caplog.at_level(logging.WARNING):
        assert recognise(template, tokenizer_for(CHATML)).stop
        assert "26 Jul 2024" in recognise(dated, tokenizer_for(LLAMA3)).before_system
    assert "writes '<think>" in caplog.text
    assert "before the last answer of a dialogue" in caplog.text
    assert "prompts here always use 2024-07-26" in caplog.text


def test_a_template_of_tokens_that_the_tokenizer_lacks_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"\[Q435\].*should be a control token"):
        recognise(PLAIN_CHATML, tokenizer_for(LLAMA3))


# --- tokenizers that put spaces before texts ------------------------------------------------------


def with_a_prefix(kind: str, chat: ChatFormat) -> Tokenizer:
    tokenizer = tokenizer_for(chat)
    backend = tokenizer.backend
    if kind == "prepend":
        backend.normalizer = normalizers.Prepend("x")
    elif kind == "byte level":
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    elif kind == "metaspace":
        backend.pre_tokenizer = pre_tokenizers.Metaspace("!", prepend_scheme="first")
    elif kind == "strip":
        backend.normalizer = normalizers.Strip()
    elif kind == "swallow":
        backend.add_special_tokens(
            [AddedToken(chat.end_of_turn, special=True, normalized=False, rstrip=True)]
        )
    elif kind == "line feeds":  # GPT-2's cut joins two line feeds at the end of a text alone
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return tokenizer


PREFIXES = pytest.mark.parametrize("kind", ["prepend", "byte level", "metaspace", "strip"])


@PREFIXES
@pytest.mark.parametrize("template", [True, False])
def test_a_tokenizer_that_reads_pieces_otherwise_is_refused(
    kind: str, template: bool, tmp_path: Path
) -> None:
    tokenizer = with_a_prefix(kind, CHATML)
    tokenizer.save(tmp_path)
    if template:
        (tmp_path / "chat_template.jinja").write_text(PLAIN_CHATML)
    else:
        CHATML.save(tmp_path)
    with pytest.raises(CheckpointError, match=r"\[Q436\].*encodes a prompt differently"):
        chat_format_of(tmp_path, Tokenizer.load(tmp_path))


def test_a_control_token_that_swallows_what_follows_is_refused(tmp_path: Path) -> None:
    directory = directory_of(tmp_path, PLAIN_CHATML, with_a_prefix("swallow", CHATML))
    with pytest.raises(CheckpointError, match=r"\[Q436\]"):
        chat_format_of(directory, Tokenizer.load(directory))


def test_a_tokenizer_with_a_prefix_is_refused_without_a_template_too(tmp_path: Path) -> None:
    with_a_prefix("byte level", LLAMA4).save(tmp_path)
    with pytest.raises(CheckpointError, match=r"\[Q436\]"):
        chat_format_of(tmp_path, Tokenizer.load(tmp_path))


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ("one", "one"),
        ([{"name": "tool_use", "template": "two"}, {"name": "default", "template": "one"}], "one"),
        ([{"name": "tool_use", "template": "two"}, 7], None),
        ([{"name": ["default"], "template": "one"}, {"template": "two"}], None),
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
    assert chat_format_of(tmp_path, tokenizer_for(CHATML)) == chat
