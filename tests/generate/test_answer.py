"""The Answerer: text in, text out."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch

from quatrain.config import GenerateConfig
from quatrain.errors import DataError
from quatrain.generate.answer import Answer, Answerer
from quatrain.generate.request import Completion
from quatrain.text.chat import LLAMA4
from quatrain.text.conversation import Message
from quatrain.text.tokenizer import SimpleCharTokenizer, Tokenizer, train_bpe
from tiny import tiny_config, tiny_model

SENTENCES = ["Où est né Molière ?", "L'été, le garçon dîne à Nîmes.", "Noël : « cœur » et maïs !"]


@functools.cache
def tokenizer(kind: str) -> Tokenizer:
    return train_bpe(SENTENCES, 300) if kind == "bpe" else SimpleCharTokenizer(SENTENCES)


def answerer(kind: str = "bpe", **changes: object) -> Answerer:
    text = tokenizer(kind)
    model = tiny_model(tiny_config(vocab_size=text.vocab_size, **changes))
    return Answerer.of(model, text, LLAMA4)


def saying(text: str) -> Answerer:
    """An Answerer whose model says the text and the end of turn, whatever is asked."""
    speaker = answerer()
    said = [*speaker.tokenizer.encode(text), speaker.tokenizer.control_id("<|eot|>")]
    model, read = speaker.model, {"prompt": 0}

    def head(states: torch.Tensor) -> torch.Tensor:
        logits = torch.full((len(states), model.config.vocab_size), -50.0)
        logits[:, said[read["prompt"]]] = 50.0
        read["prompt"] += 1
        return logits

    model.lm_head.forward = head  # type: ignore[method-assign]
    return speaker


def test_an_answer_is_its_text_and_knows_its_counts() -> None:
    answer = Answer.of("Oui.", Completion([5, 6], "stop"), prompt_tokens=9)
    assert answer == "Oui."
    assert (answer.prompt_tokens, answer.completion_tokens, answer.finish_reason) == (9, 3, "stop")
    assert Answer.of("Oui", Completion([5, 6], "length"), 9).completion_tokens == 2


def test_the_end_of_turn_is_counted_but_not_said() -> None:
    speaker = saying("À Nîmes, l'été.")
    answer = speaker.answer("Où est né Molière ?")
    assert answer == "À Nîmes, l'été."
    assert answer.finish_reason == "stop"
    assert answer.completion_tokens == len(speaker.tokenizer.encode("À Nîmes, l'été.")) + 1


def test_the_prompt_is_that_of_the_chat_format() -> None:
    speaker = answerer()
    prompt = LLAMA4.encode_prompt([Message("user", "Où ?\n\nÀ Nîmes.")], speaker.tokenizer)
    assert speaker.answer("Où ?", "À Nîmes.", max_new_tokens=1).prompt_tokens == len(prompt)


@pytest.mark.parametrize("kind", ["bpe", "char"])
@pytest.mark.parametrize("options", [{}, {"temperature": 2.0, "seed": 3}])
def test_streamed_pieces_joined_are_the_answer(kind: str, options: dict[str, float]) -> None:
    speaker, question = answerer(kind), "Où est né Molière ?"
    *pieces, whole = speaker.stream([Message("user", question)], max_new_tokens=40, **options)
    assert isinstance(whole, Answer)
    assert "".join(pieces) == whole == speaker.answer(question, max_new_tokens=40, **options)


def test_a_character_of_several_tokens_is_streamed_whole() -> None:
    text = "« é » 漢 👩 où ?"
    speaker = saying(text)
    assert len(speaker.tokenizer.encode("👩")) > 1
    *pieces, whole = speaker.stream([Message("user", "Quoi ?")])
    assert not any("\ufffd" in piece for piece in pieces)
    assert "".join(pieces) == whole == text


def test_half_a_character_that_never_ends_is_shown_as_such() -> None:
    speaker = saying("👩")
    *pieces, whole = speaker.stream([Message("user", "Quoi ?")], max_new_tokens=2)
    assert "".join(pieces) == whole == speaker.tokenizer.decode(speaker.tokenizer.encode("👩")[:2])


def test_the_same_seed_gives_the_same_answer_and_another_does_not() -> None:
    speaker = answerer()
    first, again, other = (
        speaker.answer("Où ?", temperature=2.0, seed=seed, max_new_tokens=20) for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_conversations_are_answered_as_each_would_be_alone(temperature: float) -> None:
    speaker = answerer()
    options = GenerateConfig(max_new_tokens=15, temperature=temperature, seed=4)
    asked = [[Message("user", sentence)] for sentence in [*SENTENCES, "Où ?"]]
    together = speaker.replies(asked, options)
    alone = [speaker.replies([one], options)[0] for one in asked]
    assert together == alone
    assert [a.prompt_tokens for a in together] == [a.prompt_tokens for a in alone]


def test_a_question_that_fills_the_context_is_refused() -> None:
    speaker = answerer(max_position_embeddings=40)
    with pytest.raises(DataError, match=r"(?s)Q340.*context of the model is 40.*Shorten"):
        speaker.answer("Où est né Molière ? " * 20)


def test_an_empty_question_is_refused() -> None:
    with pytest.raises(DataError, match="Q307"):
        answerer().answer("  ")


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(ValueError, match="temprature"):
        answerer().answer("Où ?", temprature=1.0)


def test_a_directory_answers_as_the_model_in_memory(tmp_path: Path) -> None:
    speaker = answerer()
    speaker.model.save_pretrained(tmp_path)
    speaker.tokenizer.save(tmp_path)
    speaker.chat.save(tmp_path)
    reread = Answerer(tmp_path, device="cpu")
    assert not reread.model.training
    assert reread.answer("Où ?", max_new_tokens=20) == speaker.answer("Où ?", max_new_tokens=20)


def test_candidates_end_in_one_answer_streamed_or_not() -> None:
    speaker, asked = answerer(), [Message("user", "Où est né Molière ?")]
    options = dict(candidates=5, temperature=0.7, max_new_tokens=6)
    answer = speaker.reply(asked, **options)
    drawn = [speaker.reply(asked, **options | {"candidates": 1, "seed": n}) for n in range(5)]
    assert answer in drawn
    assert [str(piece) for piece in speaker.stream(asked, **options)] == [answer, answer]
