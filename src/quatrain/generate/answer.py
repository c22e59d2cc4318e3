"""The Answerer: a question to an answer, by the chat format stored with the model."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, get_args

import torch

from quatrain.config import GenerateConfig, Quantised
from quatrain.errors import ConfigError
from quatrain.generate.abstain import log_probabilities
from quatrain.generate.alternative import alternatives
from quatrain.generate.consensus import most_agreed
from quatrain.generate.engine import Engine, complete
from quatrain.generate.likelihood import Likelihood, likelihoods_of
from quatrain.generate.request import Completion, FinishReason, Watch
from quatrain.model.hf_config import refuse_larger_vocabulary
from quatrain.model.io import form_to_ask, form_to_run, load_model, refuse_other_kinds
from quatrain.model.llama import LlamaModel
from quatrain.model.locate import locate, stands_on_gguf, text_tools_of
from quatrain.text.abstention import Abstention
from quatrain.text.chat import ChatFormat, user_content
from quatrain.text.conversation import Message
from quatrain.text.recognise import chat_format_of
from quatrain.text.stops import Reader, before_stop
from quatrain.text.tokenizer import Tokenizer


class TokenLogprob(NamedTuple):
    """One token and its log-probability, in nats, under the model itself."""

    id: int
    text: str
    """With U+FFFD for a part of a character; a control token's name."""
    bytes: bytes
    logprob: float
    top: tuple[TokenLogprob, ...] = ()
    """The likeliest tokens in its place, the likeliest first."""


class Answer(str):
    """The text of an answer, with how it was generated."""

    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    abstained: bool = False
    """Whether the threshold replaced the answer by the model's sentence for no answer."""
    logprobs: list[TokenLogprob] | None = None
    """Of each token of the text, if options.logprobs asks for them."""

    @classmethod
    def of(cls, text: str, completion: Completion, prompt_tokens: int) -> Answer:
        """Combine a text and its counts; all that was generated is counted, also what is cut."""
        answer = cls(text)
        answer.finish_reason = completion.finish_reason
        answer.prompt_tokens = prompt_tokens
        answer.completion_tokens = completion.num_generated
        return answer


class Answerer:
    """A model with its tokenizer and its ChatFormat, ready to be asked."""

    abstention: Abstention | None = None
    """How it abstains; None for a model that was not trained to."""

    def __init__(
        self, model: str | Path, device: str | None = None, quantize: str | None = None
    ) -> None:
        """Open MODEL: a run (its best checkpoint), a directory, a GGUF file or a Hub id.

        Args:
            model: its name.
            device: where it answers; None is a GPU where there is one.
            quantize: nf4 or int8: matrices of layers are held so, each from when it is read. None
                holds them as they are stored.

        Raises:
            ConfigError: Q208 for another kind.
            CheckpointError: Q411 for matrices that cannot be held so, or are stored in another kind
                already; and as `open_model`.
        """
        if quantize is not None and quantize not in get_args(Quantised):
            kinds = ", ".join(get_args(Quantised))
            raise ConfigError("Q208.option", name="quantize", value=quantize, known=kinds)
        place = locate(model)
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        if quantize is not None or stands_on_gguf(place):
            from quatrain.hub.opened import open_model, text_tools  # what others need not wait for

            form = None if quantize is None else form_to_run(device, quantize)
            self.model = open_model(place, device=device, form=form).eval()
            if quantize is not None:
                refuse_other_kinds(self.model, quantize, place)
            self.tokenizer, self.chat, where = text_tools(place)
        else:
            self.model = load_model(place, None, device, form_to_ask(place, device)).eval()
            where = text_tools_of(place)
            self.tokenizer = Tokenizer.load(where)
            self.chat = chat_format_of(where, self.tokenizer)
        self.abstention = Abstention.load(place)
        vocab_size = self.model.config.vocab_size
        refuse_larger_vocabulary(where, self.tokenizer.vocab_size, vocab_size)

    @classmethod
    def of(cls, model: LlamaModel, tokenizer: Tokenizer, chat: ChatFormat) -> Answerer:
        """Wrap a model that is in memory already."""
        answerer = cls.__new__(cls)
        answerer.model, answerer.tokenizer, answerer.chat = model, tokenizer, chat
        return answerer

    def answer(self, question: str, context: str | None = None, **options: Any) -> Answer:
        """Answer one question.

        Args:
            question: as a person writes it.
            context: a text that holds the answer, or None.
            options: fields of GenerateConfig (max_new_tokens, temperature, seed ...).

        Raises:
            DataError: Q340 when the prompt fills the model's context; Q30x for an empty question.
        """
        return self.reply([Message("user", user_content(question, context))], **options)

    def reply(self, messages: Sequence[Message], **options: Any) -> Answer:
        """Answer the last user turn of a conversation."""
        return self.replies([messages], GenerateConfig(**options))[0]

    def prompt_size(self, messages: Sequence[Message]) -> int:
        """Count the tokens that come before the answer; the context must hold one more."""
        return len(self.chat.encode_prompt(list(messages), self.tokenizer))

    def abstention_scores(
        self, conversations: Sequence[Sequence[Message]], no_answer: str
    ) -> list[float | None]:
        """Give the log-probability of one sentence as the answer to each of several conversations.

        None stands for a conversation after which it does not fit.
        """
        prompts = self._prompts(conversations)
        return log_probabilities(self.model, prompts, self._sentence(no_answer))

    def alternatives(
        self,
        conversations: Sequence[Sequence[Message]],
        options: GenerateConfig,
        abstention: Abstention,
    ) -> list[Answer]:
        """Give the best answer to each conversation that does not abstain."""
        return self._alternatives(self._prompts(conversations), options, abstention)

    def _alternatives(
        self, prompts: Sequence[Sequence[int]], options: GenerateConfig, abstention: Abstention
    ) -> list[Answer]:
        def abstains(ids: Sequence[int]) -> bool:
            return abstention.is_said_by(self._text(ids, options)[0])

        sentence, stop_ids = self._sentence(abstention.no_answer), self._stop_ids()
        watch = self._watch(options.stop)
        found = alternatives(self.model, prompts, sentence[:-1], abstains, options, stop_ids, watch)
        self._add_likelihoods(prompts, found, options)
        return [
            self._answer(completion, len(prompt), options)
            for prompt, completion in zip(prompts, found, strict=True)
        ]

    def _add_likelihoods(
        self,
        prompts: Sequence[Sequence[int]],
        completions: Sequence[Completion],
        options: GenerateConfig,
    ) -> None:
        if options.logprobs is None:
            return
        said = [completion.ids for completion in completions]
        found = likelihoods_of(self.model, prompts, said, options.logprobs)
        for completion, likelihoods in zip(completions, found, strict=True):
            completion.likelihoods = likelihoods

    def _text(self, ids: Sequence[int], options: GenerateConfig) -> tuple[str, bool]:
        """Decode ids up to the first stop string; say whether there is one."""
        return before_stop(self.tokenizer.decode(list(ids)), options.stop)

    def _answer(
        self,
        completion: Completion,
        prompt_tokens: int,
        options: GenerateConfig,
        said: tuple[str, bool] | None = None,
    ) -> Answer:
        """Make the Answer of a completion; `said` is its text where `_text` is not asked."""
        text, is_cut = said or self._text(completion.ids, options)
        if is_cut and completion.finish_reason == "length":
            completion = replace(completion, finish_reason="stop", by_text=True)
        answer = Answer.of(text, completion, prompt_tokens)
        if options.logprobs is not None:
            number = self._tokens_of(text, completion.ids) if is_cut else None
            answer.logprobs = [self._described(one) for one in completion.likelihoods[:number]]
        return answer

    def _tokens_of(self, text: str, ids: Sequence[int]) -> int:
        """Count the first tokens that a text which was cut needs."""
        number = len(ids)
        while number and self.tokenizer.decode(ids[: number - 1]).startswith(text):
            number -= 1
        return number

    def _described(self, likelihood: Likelihood) -> TokenLogprob:
        def token(token_id: int, logprob: float) -> TokenLogprob:
            spelt = self.tokenizer.bytes_of(token_id)
            return TokenLogprob(token_id, spelt.decode(errors="replace"), spelt, logprob)

        own = token(likelihood.token_id, likelihood.logprob)
        return own._replace(top=tuple(token(*one) for one in likelihood.top))

    def _watch(self, stops: Sequence[str]) -> Watch | None:
        """Make what ends answers at their first stop string."""

        def ends() -> Callable[[int], bool]:
            reader = Reader(self.tokenizer.stream(), stops)

            def ends_at(token_id: int) -> bool:
                reader.push(token_id)
                return reader.found

            return ends_at

        return ends if stops else None

    def _prompts(self, conversations: Sequence[Sequence[Message]]) -> list[list[int]]:
        return [self.chat.encode_prompt(list(m), self.tokenizer) for m in conversations]

    def _stop_ids(self) -> Collection[int]:
        return self.chat.stop_ids(self.tokenizer)

    def _sentence(self, no_answer: str) -> list[int]:
        return self.chat.encode_answer(no_answer, self.tokenizer)

    def _abstained(
        self, prompts: Sequence[Sequence[int]], options: GenerateConfig
    ) -> dict[int, Answer]:
        """Answer the prompts for which the threshold says that there is no answer."""
        abstention = self.abstention
        if abstention is None or not abstention.needs_score:
            return {}
        sentence = self._sentence(abstention.no_answer)
        scores = log_probabilities(self.model, prompts, sentence)
        numbers = [number for number, score in enumerate(scores) if abstention.applies(score)]
        said = [Completion([*sentence[:-1]], "stop") for _ in numbers]
        self._add_likelihoods([prompts[number] for number in numbers], said, options)
        text = before_stop(abstention.no_answer, options.stop)
        found = {
            number: self._answer(completion, len(prompts[number]), options, text)
            for number, completion in zip(numbers, said, strict=True)
        }
        for answer in found.values():
            answer.abstained = True
        return found

    def replies(
        self,
        conversations: Sequence[Sequence[Message]],
        options: GenerateConfig,
        abstaining: bool = True,
    ) -> list[Answer]:
        """Answer several conversations side by side, each as it would be alone.

        Args:
            conversations: each ends with the user.
            options: how answers are generated.
            abstaining: whether the model's threshold decides where it abstains.
        """
        prompts = self._prompts(conversations)
        answers = self._abstained(prompts, options) if abstaining else {}
        others = [i for i in range(len(prompts)) if i not in answers]
        answers |= zip(others, self._generated([prompts[i] for i in others], options), strict=True)
        abstention = self.abstention
        if abstaining and abstention is not None and abstention.threshold is not None:
            wrong = [i for i in others if abstention.is_said_by(answers[i])]
            better = self._alternatives([prompts[i] for i in wrong], options, abstention)
            answers |= zip(wrong, better, strict=True)
        return [answers[i] for i in range(len(prompts))]

    def _generated(self, prompts: Sequence[Sequence[int]], options: GenerateConfig) -> list[Answer]:
        watch = self._watch(options.stop)
        completions = complete(self.model, prompts, options, self._stop_ids(), watch)
        each, answers = options.candidates, []
        for number, prompt in enumerate(prompts):
            drawn = completions[number * each : (number + 1) * each]
            texts = [self._text(completion.ids, options) for completion in drawn]
            best = most_agreed([text for text, _ in texts]) if each > 1 else 0
            answers.append(self._answer(drawn[best], len(prompt), options, texts[best]))
        return answers

    def stream(self, messages: Sequence[Message], **options: Any) -> Iterator[str | Answer]:
        """Yield pieces of the answer's text once they are final, then the whole as an Answer.

        What may become a stop string is not final. With several candidates nothing is before all
        are drawn: the text is one piece. Where a threshold forbids the sentence for no answer,
        nothing is that could still become it.
        """
        settings, abstention = GenerateConfig(**options), self.abstention
        if settings.candidates > 1:
            answer = self.replies([messages], settings)[0]
            yield from (str(answer), answer)
            return
        [prompt] = self._prompts([messages])
        if abstained := self._abstained([prompt], settings):
            yield from (str(abstained[0]), abstained[0])
            return
        held: str | None = "" if abstention and abstention.threshold is not None else None
        for piece in self._pieces(prompt, settings):
            if abstention is None or held is None:
                yield piece
            elif isinstance(piece, Answer):
                if abstention.is_said_by(piece):
                    [piece] = self._alternatives([prompt], settings, abstention)
                yield from (str(piece), piece)
            else:
                held += piece
                if held.strip() and not abstention.may_begin_with(held):
                    yield held
                    held = None

    def _pieces(self, prompt: Sequence[int], options: GenerateConfig) -> Iterator[str | Answer]:
        reader, pieces = Reader(self.tokenizer.stream(), options.stop), list[str]()
        completion = Completion()
        for step in Engine(self.model).submit(prompt, options, self._stop_ids()):
            completion.add(step)
            if step.is_text and (piece := reader.push(step.token_id)):
                pieces.append(piece)
                yield piece
            if reader.found:
                break
        if rest := reader.finish():
            pieces.append(rest)
            yield rest
        text = "".join(pieces), reader.found
        yield self._answer(completion, len(prompt), options, text)
