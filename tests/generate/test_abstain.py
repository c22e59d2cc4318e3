"""The log-probability of a sentence after a prompt, and the effect of a model's threshold."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from quatrain.config import GenerateConfig
from quatrain.errors import CheckpointError
from quatrain.evaluate.run import grade, of_abstention
from quatrain.generate.abstain import log_probabilities
from quatrain.generate.answer import Answer, Answerer
from quatrain.text.abstention import ABSTENTION, Abstention
from quatrain.text.chat import LLAMA4
from quatrain.text.conversation import Conversation, Message
from quatrain.text.tokenizer import SimpleCharTokenizer
from tiny import random_ids, tiny_config, tiny_model

NONE = "Rien."


def answerer() -> Answerer:
    tokenizer = SimpleCharTokenizer(["Où est né Ada ? à Lille Rien."])
    model = tiny_model(tiny_config(vocab_size=tokenizer.vocab_size))
    return Answerer.of(model.eval(), tokenizer, LLAMA4)


def asked() -> list[Conversation]:
    def one(question: str, said: str, *golds: str) -> Conversation:
        turns = (Message("user", question), Message("assistant", said))
        return Conversation(turns, golds, question, "f:1")

    return [one("Où ?", "à Lille", "à Lille"), one("Ada est née ?", NONE), one("né ?", NONE)]


def prompts(questions: list[Conversation]) -> list[tuple[Message, ...]]:
    return [one.messages[:-1] for one in questions]


def test_it_is_the_sum_of_the_steps_whatever_stands_beside_it() -> None:
    model = tiny_model().eval()
    many = [random_ids(1, n, seed=n)[0].tolist() for n in (3, 20, 7, 12)]
    sentence = random_ids(1, 5, seed=99)[0].tolist()
    for prompt, found in zip(many, log_probabilities(model, many, sentence), strict=True):
        total, ids = 0.0, list(prompt)
        for token in sentence:
            with torch.no_grad():
                states = model.model(torch.tensor([ids]), None).states
                total += float(model.lm_head(states[0, -1]).log_softmax(-1)[token])
            ids.append(token)
        assert found == pytest.approx(total, abs=1e-4)  # float32 sums in another order


def test_a_prompt_without_room_for_the_sentence_has_none() -> None:
    model = tiny_model(tiny_config(max_position_embeddings=16)).eval()
    found = log_probabilities(model, [[1] * 13, [1] * 14], [2, 3, 4])
    assert found[0] is not None
    assert found[1] is None
    assert log_probabilities(model, [], [1]) == []


def test_a_threshold_puts_the_sentence_in_the_place_of_the_answer() -> None:
    one, questions, options = answerer(), asked(), GenerateConfig(max_new_tokens=3)
    plain = one.replies(prompts(questions), options)
    scores = one.abstention_scores(prompts(questions), NONE)
    middle = sorted(score for score in scores if score is not None)[1]
    one.abstention = Abstention(no_answer=NONE, threshold=middle)
    for answer, before, score in zip(
        one.replies(prompts(questions), options), plain, scores, strict=True
    ):
        assert score is not None
        assert str(answer) == (NONE if score > middle else before)
        assert answer.abstained == (score > middle)
    assert one.replies(prompts(questions), options, abstaining=False) == plain
    one.abstention = one.abstention.never()
    assert one.replies(prompts(questions), options) == plain


def test_a_stream_abstains_as_an_answer_does() -> None:
    one = answerer()
    one.abstention = Abstention(no_answer=NONE, threshold=-1000.0)
    *pieces, last = one.stream([Message("user", "Où ?")], max_new_tokens=3)
    assert pieces == [NONE]
    assert isinstance(last, Answer)
    assert (str(last), last.abstained, last.finish_reason) == (NONE, True, "stop")


def test_grading_needs_no_threshold_and_obeys_one() -> None:
    one, questions, options = answerer(), asked(), GenerateConfig(max_new_tokens=3)
    raw = grade(one, questions, options)
    found = of_abstention(raw)
    assert (found["has_answer"]["count"], found["no_answer"]["count"]) == (1, 2)
    one.abstention = Abstention(no_answer=NONE, threshold=found["best_threshold"])
    graded = grade(one, questions, options)
    mean = 100 * sum(each.f1 for each in graded) / len(graded)
    assert mean == pytest.approx(found["best_f1"])
    assert [each.said for each in graded] == [each.said for each in raw]
    one.abstention = Abstention(no_answer=NONE, threshold=-1000.0)
    always = grade(one, questions, options)
    assert [each.answer for each in always] == [NONE] * 3
    assert [each.f1 for each in always] == [0.0, 1.0, 1.0]
    assert of_abstention(always)["abstained"] == 3


def test_questions_that_all_have_answers_cost_no_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    one = answerer()
    monkeypatch.setattr(one, "abstention_scores", None)
    graded = grade(one, asked()[:1], GenerateConfig(max_new_tokens=3))
    assert graded[0].said is None
    assert of_abstention(graded) == {}


def test_how_a_model_abstains_is_kept_as_a_file(tmp_path: Path) -> None:
    assert Abstention.load(tmp_path) is None
    for threshold in (None, -3.25):
        kept = Abstention(no_answer=NONE, threshold=threshold, f1=50.0, questions=4)
        kept.save(tmp_path)
        assert Abstention.load(tmp_path) == kept
    for wrong in ('{"threshold": -1.0}', '{"no_answer": ""}', '{"no_answer": "a", "x": 1}', "[]"):
        (tmp_path / ABSTENTION).write_text(wrong, encoding="utf-8")
        with pytest.raises(CheckpointError, match=ABSTENTION):
            Abstention.load(tmp_path)
