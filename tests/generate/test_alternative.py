"""The best answer that is not a given one: by hand, and against all answers there are."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from quatrain.config import GenerateConfig
from quatrain.evaluate.run import grade, of_abstention
from quatrain.generate.abstain import log_p_of
from quatrain.generate.alternative import alternatives
from quatrain.generate.answer import Answer, Answerer
from quatrain.text.abstention import Abstention
from quatrain.text.chat import LLAMA4
from quatrain.text.conversation import Conversation, Message
from quatrain.text.tokenizer import SimpleCharTokenizer
from tiny import random_ids, tiny_config, tiny_model

NONE = "Rien."
STOP = 7


def taught(*examples: tuple[str, str]) -> Answerer:
    """Overfit a tiny model on a few answers."""
    tokenizer = SimpleCharTokenizer(["Où est né Ada ? à Lille Rien."])
    model = tiny_model(tiny_config(vocab_size=tokenizer.vocab_size))
    turns = [
        Conversation((Message("user", q), Message("assistant", a)), (a,), q, "f:1")
        for q, a in examples
    ]
    encoded = LLAMA4.encode_conversations(turns, tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(40):
        for one in encoded:
            ids = torch.tensor([one.ids])
            logits = model.lm_head(model.model(ids, None).states)[0, :-1]
            wanted = torch.tensor(one.mask)[1:]
            loss = torch.nn.functional.cross_entropy(logits[wanted], ids[0, 1:][wanted])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return Answerer.of(model.eval(), tokenizer, LLAMA4)


@pytest.fixture(scope="module")
def _abstaining() -> Answerer:
    return taught(("Où ?", NONE), ("Où ?", NONE), ("Où ?", NONE), ("Où ?", "à Lille"))


@pytest.fixture
def abstaining(_abstaining: Answerer) -> Answerer:
    """A model that says the sentence far more often than an answer, whatever is asked."""
    _abstaining.abstention = None
    return _abstaining


OPTIONS = GenerateConfig(max_new_tokens=12)
ASKED = [[Message("user", "Où ?")], [Message("user", "Ada ?")]]


def test_a_model_that_always_abstains_gives_its_best_other_answer(abstaining: Answerer) -> None:
    assert abstaining.replies(ASKED[:1], OPTIONS) == [NONE]
    abstaining.abstention = Abstention(no_answer=NONE)
    assert abstaining.replies(ASKED[:1], OPTIONS) == [NONE]
    abstaining.abstention = abstaining.abstention.never()
    [answer] = abstaining.replies(ASKED[:1], OPTIONS)
    assert (str(answer), answer.finish_reason, answer.abstained) == ("à Lille", "stop", False)
    assert answer.completion_tokens == len("à Lille") + 1


def test_a_threshold_turns_the_sentence_into_an_answer_and_back(abstaining: Answerer) -> None:
    [score] = abstaining.abstention_scores(ASKED[:1], NONE)
    assert score is not None
    for threshold, said in ((score + 0.1, "à Lille"), (score - 0.1, NONE)):
        abstaining.abstention = Abstention(no_answer=NONE, threshold=threshold)
        [answer] = abstaining.replies(ASKED[:1], OPTIONS)
        assert (str(answer), answer.abstained) == (said, said == NONE)
        *pieces, last = abstaining.stream(ASKED[0], max_new_tokens=12)
        assert "".join(map(str, pieces)) == last == said
        assert isinstance(last, Answer)


def test_a_stream_holds_back_only_what_may_become_the_sentence(abstaining: Answerer) -> None:
    one = taught(("Où ?", "Rien à Lille"))
    one.abstention = Abstention(no_answer=NONE).never()
    *pieces, last = one.stream(ASKED[0], max_new_tokens=20)
    assert len(pieces) > 3
    assert "".join(map(str, pieces)) == last == "Rien à Lille"


def test_another_spelling_of_the_sentence_and_no_words_are_barred_too() -> None:
    one = taught(*[("Où ?", NONE)] * 4, *[("Où ?", "Rien")] * 2, ("Où ?", "à Lille"))
    one.abstention = Abstention(no_answer=NONE).never()
    [answer] = one.replies(ASKED[:1], OPTIONS)
    assert not one.abstention.is_said_by(answer)


def ordered(model: Any, prompt: list[int], vocabulary: int) -> list[list[int]]:
    """Answers of two tokens at most, the most likely opening first, the slow way."""
    ids = [i for i in range(vocabulary) if i != STOP]
    answers = [[STOP], *([a, STOP] for a in ids), *([a, b] for a in ids for b in ids)]
    worth = {}
    for place, log_p in log_p_of(model, [prompt] * len(answers), answers):
        steps = range(len(answers[place]))
        worth[tuple(answers[place])] = sum(float(log_p[i, answers[place][i]]) for i in steps)
    return [list(one) for one in sorted(worth, key=lambda one: -worth[one])]


def test_it_is_the_likeliest_parting_continued_greedily() -> None:
    model = tiny_model(tiny_config(vocab_size=12)).eval()
    for seed in range(6):
        prompt = random_ids(1, 4, seed=seed, vocab_size=12)[0].tolist()
        every = ordered(model, prompt, 12)
        barred = next(one[:-1] for one in every if len(one) == 2 and one[-1] == STOP)
        log_p = dict(log_p_of(model, [prompt], [[*barred, STOP]]))[0]
        first, second = log_p[0].clone(), log_p[1].clone()
        first[[barred[0], STOP]], second[STOP] = -torch.inf, -torch.inf
        deep = float(log_p[0, barred[0]]) + float(second.max())
        opening = (
            [int(first.argmax())] if float(first.max()) > deep else [*barred, int(second.argmax())]
        )
        options = GenerateConfig(max_new_tokens=2)
        [found] = alternatives(model, [prompt], barred, lambda _: False, options, [STOP])
        assert found.ids[: len(opening)] == opening


def test_prompts_beside_each_other_get_what_they_get_alone() -> None:
    model = tiny_model(tiny_config(vocab_size=12)).eval()
    prompts = [random_ids(1, n, seed=n, vocab_size=12)[0].tolist() for n in (3, 9, 5)]
    options = GenerateConfig(max_new_tokens=5)

    def found(some: Sequence[list[int]]) -> list[list[int]]:
        barred = lambda ids: len(ids) < 3  # noqa: E731
        return [one.ids for one in alternatives(model, some, [1, 2], barred, options, [STOP])]

    assert found(prompts) == list(itertools.chain(*(found([one]) for one in prompts)))


def test_an_answer_fits_the_context_and_the_tokens_allowed() -> None:
    model = tiny_model(tiny_config(vocab_size=12, max_position_embeddings=16)).eval()
    prompt = random_ids(1, 15, vocab_size=12)[0].tolist()
    [found] = alternatives(model, [prompt], [1, 2, 3], lambda _: False, GenerateConfig(), [STOP])
    assert (len(found.ids), found.finish_reason) == (1, "length")
    options = GenerateConfig(max_new_tokens=1)
    [found] = alternatives(model, [prompt[:4]], [1, 2], lambda _: False, options, [STOP])
    assert len(found.ids) == 1


def test_only_what_counts_is_answered_again(
    abstaining: Answerer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def conversation(gold: str) -> Conversation:
        turns = (Message("user", "Où ?"), Message("assistant", gold or NONE))
        return Conversation(turns, (gold,) if gold else (), "Où ?", "f:1")

    asked, again = [conversation(gold) for gold in ("à Lille", "", "")], list[int]()
    whole = abstaining.alternatives

    def counted(prompts: Any, *rest: Any) -> list[Answer]:
        again.append(len(prompts))
        return whole(prompts, *rest)

    monkeypatch.setattr(abstaining, "alternatives", counted)
    abstaining.abstention = None
    found = of_abstention(grade(abstaining, asked, OPTIONS))
    assert again == [1]
    assert found["always_answering"]["has_answer"]["exact_match"] == 100.0
    assert found["always_answering"]["no_answer"]["f1"] == 0.0
    assert found["always_abstaining"]["f1"] == pytest.approx(200 / 3)
    abstaining.abstention = Abstention(no_answer=NONE).never()
    graded = grade(abstaining, asked, OPTIONS)
    assert [one.answer for one in graded] == ["à Lille"] * 3
    assert of_abstention(graded)["abstained"] == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", True), ("Sans", True), ("Sans rép", True), ("« sans réponse", True), ("Sans doute", True),
     ("Sans doute Lille", False), ("Lille est", False)],
)  # fmt: skip
def test_words_that_part_from_the_sentence_cannot_become_it(text: str, expected: bool) -> None:
    abstention = Abstention(no_answer="Sans réponse dans le texte.")
    assert abstention.may_begin_with(text) == expected
