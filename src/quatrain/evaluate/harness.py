"""A model for lm-eval, and its French tasks on local files, scored as `quatrain eval` scores.

    import lm_eval
    from lm_eval.tasks import TaskManager
    from quatrain.evaluate.harness import HarnessModel, local_task

    lm_eval.simple_evaluate(
        HarnessModel("runs/demo"),
        tasks=[local_task("french_bench_fquadv2", "fquad.json")],
        task_manager=TaskManager(include_defaults=False),  # does not look through all its tasks
        apply_chat_template=True,
    )

or lm-eval's own command, with this model among its own ones:

    python -m quatrain.evaluate.harness run --model quatrain --model_args model=runs/demo ...

It needs the extra `eval`.

A chat stays a list of turns on its way here: as one text, what a file holds could open a turn.
"""

from __future__ import annotations

import json
import logging
import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lm_eval import tasks, utils
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from lm_eval.tasks._yaml_loader import load_yaml

from quatrain.config import DataConfig, GenerateConfig
from quatrain.data.records import load_records
from quatrain.errors import ConfigError
from quatrain.evaluate.run import evaluating
from quatrain.evaluate.score import marks
from quatrain.generate.abstain import log_p_of
from quatrain.generate.answer import Answerer
from quatrain.generate.engine import complete
from quatrain.text.chat import CONTEXT_SEPARATOR
from quatrain.text.conversation import Conversation, Message
from quatrain.words import say

logger = logging.getLogger(__name__)

_SCORES = ("exact_match", "f1")
_OURS = {"temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed"}
"""Settings of generation with the same name and meaning in lm-eval."""
_OF_THE_HUB = {"tag", "dataset_path", "dataset_name", "dataset_kwargs"}
_ELSEWHERE = {"until", "max_gen_toks", "do_sample"}


class _Chat(NamedTuple):
    """Turns of a chat as JSON, in the place of a prompt."""

    prompt: str

    def encode(self, encoding: str) -> bytes:
        """Encode it, as lm-eval does with a prompt for its hash."""
        return self.prompt.encode(encoding)

    @property
    def messages(self) -> list[Message]:
        """The turns."""
        return [Message(one["role"], one["content"]) for one in json.loads(self.prompt)]


@register_model("quatrain")
class HarnessModel(LM):  # type: ignore[misc]
    """A model of ours as lm-eval asks it."""

    def __init__(self, model: str | Path | Answerer, quantize: str | None = None, **_: Any) -> None:
        """Open a model.

        Args:
            model: as `quatrain ask` takes it.
            quantize: see Answerer.
            _: lm-eval's settings of devices and batches, which the engine chooses itself.
        """
        super().__init__()
        self.answerer = model if isinstance(model, Answerer) else Answerer(model, quantize=quantize)
        self._name = "quatrain" if isinstance(model, Answerer) else str(model)

    @property
    def tokenizer_name(self) -> str:
        """Name of the model, for lm-eval's caches."""
        return self._name

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> Any:
        """Keep a chat as its turns."""
        return _Chat(json.dumps(chat_history, ensure_ascii=False))

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Answer prompts: (prompt, settings of generation) each.

        A prompt that fills the context is not asked: its answer is empty, and a warning counts it.
        """
        alike: dict[GenerateConfig, list[int]] = defaultdict(list)
        for number, request in enumerate(requests):
            alike[options_of(request.args[1])].append(number)
        found = [""] * len(requests)
        for options, numbers in alike.items():
            answers = self._answers([requests[number].args[0] for number in numbers], options)
            for number, answer in zip(numbers, answers, strict=True):
                found[number] = answer
        return found

    def loglikelihood(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """Judge continuations: (prompt, continuation) each.

        Returns:
            The log-probability of each, in nats, and whether it is the greedy one. One that does
            not fit the context has -inf, and a warning counts it.
        """
        pairs = [self._pair(*request.args) for request in requests]
        return self._judged(pairs)

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """Sum the log-probabilities of texts, in nats, longer ones in windows of the context."""
        begin, context = self._begin, self._context
        found = []
        for request in requests:
            ids = self.answerer.tokenizer.encode(request.args[0])
            windows = utils.get_rolling_token_windows(ids, begin[-1], context - 1, context_len=1)
            pairs = [utils.make_disjoint_window(window) for window in windows]
            found.append(math.fsum(log_p for log_p, _ in self._judged(pairs)))
        return found

    @property
    def _context(self) -> int:
        return self.answerer.model.config.max_position_embeddings

    @property
    def _begin(self) -> list[int]:
        """What a text without a beginning begins with."""
        return self.answerer.voice.opening("") or [min(self.answerer.voice.stop_ids)]

    def _prompt(self, prompt: Any) -> list[int]:
        voice = self.answerer.voice
        if isinstance(prompt, _Chat):
            return voice.prompt(prompt.messages)
        return voice.opening(prompt) or self._begin

    def _pair(self, prompt: Any, continuation: str) -> tuple[list[int], list[int]]:
        """Encode a prompt and what follows; a text is encoded as a whole, then divided.

        Spaces at the end of a prompt belong to the tokens after it.
        """
        if isinstance(prompt, _Chat):
            return self._prompt(prompt), self.answerer.tokenizer.encode(continuation)
        kept = prompt.rstrip()
        whole = self._prompt(prompt + continuation)
        before = self._prompt(kept)
        return whole[: len(before)], whole[len(before) :]

    def _answers(self, prompts: Sequence[Any], options: GenerateConfig) -> list[str]:
        """Answer chats by their turns, and let texts go on."""
        answerer, voice = self.answerer, self.answerer.voice
        ids = [self._prompt(prompt) for prompt in prompts]
        fitting = [number for number, one in enumerate(ids) if len(one) < self._context]
        _warn_of(len(prompts) - len(fitting), len(prompts))
        chats = [number for number in fitting if isinstance(prompts[number], _Chat)]
        texts = [number for number in fitting if not isinstance(prompts[number], _Chat)]
        found = [""] * len(prompts)
        with evaluating(answerer.model):
            replies = answerer.replies([prompts[number].messages for number in chats], options)
            completions = complete(
                answerer.model, [ids[number] for number in texts], options, voice.stop_ids,
                voice.watch(options.stop),
            )  # fmt: skip
        for number, reply in zip(chats, replies, strict=True):
            found[number] = str(reply)
        for number, completion in zip(texts, completions, strict=True):
            found[number] = voice.text(completion.ids, options)[0]
        return found

    def _judged(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
        fitting = [
            number
            for number, (prompt, answer) in enumerate(pairs)
            if len(prompt) + len(answer) <= self._context
        ]
        _warn_of(len(pairs) - len(fitting), len(pairs))
        found = [(-math.inf, False)] * len(pairs)
        prompts, answers = ([pairs[number][side] for number in fitting] for side in (0, 1))
        with evaluating(self.answerer.model):
            for place, log_p_LV in log_p_of(self.answerer.model, prompts, answers):
                ids_L = log_p_LV.new_tensor(answers[place]).long()
                chosen_L = log_p_LV.gather(-1, ids_L[:, None])[:, 0]
                is_greedy = bool((log_p_LV.argmax(-1) == ids_L).all())
                found[fitting[place]] = float(chosen_L.double().sum()), is_greedy
        return found


def options_of(given: dict[str, Any]) -> GenerateConfig:
    """Read lm-eval's settings of generation.

    Raises:
        ConfigError: Q208 for one without a counterpart: an answer made otherwise would be scored.
    """
    unknown = given.keys() - _OURS - _ELSEWHERE
    if unknown:
        known = ", ".join(sorted(_OURS | _ELSEWHERE))
        names = ", ".join(sorted(unknown))
        raise ConfigError("Q208.generation", names=names, known=known)
    until = given.get("until") or ()
    chosen: dict[str, Any] = {name: given[name] for name in _OURS & given.keys()}
    if given.get("do_sample") is False:
        chosen["temperature"] = 0.0
    return GenerateConfig(
        stop=(until,) if isinstance(until, str) else tuple(filter(None, until)),
        max_new_tokens=given.get("max_gen_toks", 256),
        **chosen,
    )


def local_task(name: str, file: str | Path, no_answer: str = "Impossible") -> dict[str, Any]:
    """Give one of lm-eval's tasks questions of a file, and our exact match and F1.

    Args:
        name: of a task that generates answers: french_bench_fquadv2, french_bench_multifquad,
            french_bench_trivia, or one with the same columns.
        file: as `quatrain sft` takes it.
        no_answer: what the task tells a model to say where there is no answer.

    Returns:
        What `lm_eval.simple_evaluate(tasks=[...])` takes.

    Raises:
        ConfigError: Q208 for a task that lm-eval does not have.
    """

    def questions(**_: Any) -> dict[str, Any]:
        from datasets import Dataset

        rows = load_records((str(file),), DataConfig()).conversations
        asked = Dataset.from_list([_columns(row) for row in rows])
        return dict.fromkeys(("train", "valid", "validation", "test", "valid_hasAns"), asked)

    def scored(doc: dict[str, Any], results: Sequence[str]) -> dict[str, float]:
        golds = doc["answers"]["text"] or [no_answer]
        return dict(zip(_SCORES, marks(results[0], golds), strict=True))

    written = next(Path(tasks.__file__).parent.rglob(f"{name}.yaml"), None)
    if written is None:
        raise ConfigError("Q208.task", name=name)
    config = load_yaml(written)
    return {
        **{key: value for key, value in config.items() if key not in _OF_THE_HUB},
        "custom_dataset": questions,
        "process_results": scored,
        "metric_list": [
            {"metric": score, "aggregation": "mean", "higher_is_better": True} for score in _SCORES
        ],
    }


def _columns(row: Conversation) -> dict[str, Any]:
    """Describe a question in the columns of lm-eval's French tasks."""
    question, _, context = row.messages[-2].content.partition(CONTEXT_SEPARATOR)
    golds = list(row.answers)
    answer = golds[0] if golds else ""
    return {"context": context, "question": question, "answers": {"text": golds},
            "Question": question, "Answer": answer}  # fmt: skip


def _warn_of(count: int, total: int) -> None:
    if count:
        logger.warning(say("log.long_prompts", count=count, total=total))


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
