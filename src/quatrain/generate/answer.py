"""The Answerer: a question to an answer, by the chat format stored with the model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import torch

from quatrain.config import GenerateConfig, Quantised
from quatrain.errors import ConfigError
from quatrain.generate.abstain import log_probabilities
from quatrain.generate.alternative import alternatives
from quatrain.generate.consensus import most_agreed
from quatrain.generate.engine import Engine, complete
from quatrain.generate.likelihood import likelihoods_of
from quatrain.generate.reply import Replier
from quatrain.generate.request import Completion
from quatrain.generate.voice import Answer, Piece, TokenLogprob, Voice
from quatrain.model.hf_config import refuse_larger_vocabulary
from quatrain.model.io import (
    Shelf,
    form_to_ask,
    form_to_run,
    load_model,
    refuse_other_kinds,
)
from quatrain.model.llama import LlamaModel
from quatrain.model.locate import (
    learnt_single_questions,
    locate,
    stands_on_gguf,
    text_tools_of,
)
from quatrain.text.abstention import Abstention
from quatrain.text.chat import ChatFormat, user_content
from quatrain.text.conversation import Message
from quatrain.text.recognise import chat_format_of
from quatrain.text.tokenizer import Tokenizer

__all__ = ["Answer", "Answerer", "Piece", "TokenLogprob"]


class Answerer:
    """A model with its tokenizer and its ChatFormat, ready to be asked."""

    abstention: Abstention | None = None
    """How it abstains; None for a model that was not trained to."""
    single_questions: bool = False
    """Whether it learnt nothing but single questions, so that the turns before one mislead it."""

    def __init__(
        self,
        model: str | Path,
        device: str | None = None,
        quantize: str | None = None,
        shelf: Shelf | None = None,
    ) -> None:
        """Open MODEL: a run (its best checkpoint), a directory, a GGUF file or a Hub id.

        Args:
            model: its name.
            device: where it answers; None is a GPU where there is one.
            quantize: nf4 or int8: matrices of layers are held so, each from when it is read. None
                holds them as they are stored.
            shelf: weights of bases that other Answerers with this shelf hold already.

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
            self.model = open_model(place, device=device, form=form, shelf=shelf).eval()
            if quantize is not None:
                refuse_other_kinds(self.model, quantize, place)
            self.tokenizer, self.chat, where = text_tools(place)
        else:
            form = form_to_ask(place, device)
            self.model = load_model(place, None, device, form, shelf).eval()
            where = text_tools_of(place)
            self.tokenizer = Tokenizer.load(where)
            self.chat = chat_format_of(where, self.tokenizer)
        self.abstention = Abstention.load(place)
        self.single_questions = learnt_single_questions(place)
        vocab_size = self.model.config.vocab_size
        refuse_larger_vocabulary(where, self.tokenizer.vocab_size, vocab_size)

    @classmethod
    def of(cls, model: LlamaModel, tokenizer: Tokenizer, chat: ChatFormat) -> Answerer:
        """Wrap a model that is in memory already."""
        answerer = cls.__new__(cls)
        answerer.model, answerer.tokenizer, answerer.chat = model, tokenizer, chat
        return answerer

    @property
    def voice(self) -> Voice:
        """What turns its conversations into prompts, and its ids into answers."""
        return Voice(self.tokenizer, self.chat)

    def replier(self, abstaining: bool = True) -> Replier:
        """Give what answers one prompt at a time, however the engine is driven.

        Args:
            abstaining: whether the model's threshold decides where it abstains.
        """
        return Replier(self.model, self.voice, self.abstention if abstaining else None)

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
        return len(self.voice.prompt(messages))

    def stream(self, messages: Sequence[Message], **options: Any) -> Iterator[Piece | Answer]:
        """Yield pieces of the answer's text once they are final, then the whole as an Answer.

        What may become a stop string is not final. With several candidates nothing is before all
        are drawn: the text is one piece. Where a threshold forbids the sentence for no answer,
        nothing is that could still become it.
        """
        settings = GenerateConfig(**options)
        if settings.candidates > 1:
            answer = self.replies([messages], settings)[0]
            yield from (Piece.of(answer, answer.logprobs or ()), answer)
            return
        prompt, replier = self.voice.prompt(messages), self.replier()
        engine = Engine(self.model, kv_memory=settings.kv_bytes)
        for said in replier.reply(engine, prompt, settings, replier.score(prompt)):
            if said is None:
                engine.step()
            else:
                yield said

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
        prompts = list(map(self.voice.prompt, conversations))
        answers = self._abstained(prompts, options) if abstaining else {}
        others = [i for i in range(len(prompts)) if i not in answers]
        answers |= zip(others, self._generated([prompts[i] for i in others], options), strict=True)
        abstention = self.abstention
        if abstaining and abstention is not None and abstention.threshold is not None:
            wrong = [i for i in others if abstention.is_said_by(answers[i])]
            better = self._alternatives([prompts[i] for i in wrong], options, abstention)
            answers |= zip(wrong, better, strict=True)
        return [answers[i] for i in range(len(prompts))]

    def abstention_scores(
        self, conversations: Sequence[Sequence[Message]], no_answer: str
    ) -> list[float | None]:
        """Give the log-probability of one sentence as the answer to each of several conversations.

        None stands for a conversation after which it does not fit.
        """
        prompts = list(map(self.voice.prompt, conversations))
        return log_probabilities(self.model, prompts, self.voice.sentence(no_answer))

    def alternatives(
        self,
        conversations: Sequence[Sequence[Message]],
        options: GenerateConfig,
        abstention: Abstention,
    ) -> list[Answer]:
        """Give the best answer to each conversation that does not abstain."""
        prompts = list(map(self.voice.prompt, conversations))
        return self._alternatives(prompts, options, abstention)

    def _alternatives(
        self, prompts: Sequence[Sequence[int]], options: GenerateConfig, abstention: Abstention
    ) -> list[Answer]:
        voice = self.voice

        def abstains(ids: Sequence[int]) -> bool:
            return abstention.is_said_by(voice.text(ids, options)[0])

        barred, watch = voice.sentence(abstention.no_answer)[:-1], voice.watch(options.stop)
        found = alternatives(self.model, prompts, barred, abstains, options, voice.stop_ids, watch)
        if options.logprobs is not None:
            said = [completion.ids for completion in found]
            known = likelihoods_of(self.model, prompts, said, options.logprobs)
            for completion, likelihoods in zip(found, known, strict=True):
                completion.likelihoods = likelihoods
        return [
            voice.answer(completion, len(prompt), options)
            for prompt, completion in zip(prompts, found, strict=True)
        ]

    def _abstained(
        self, prompts: Sequence[Sequence[int]], options: GenerateConfig
    ) -> dict[int, Answer]:
        """Answer the prompts for which the threshold says that there is no answer."""
        abstention, replier = self.abstention, self.replier()
        if abstention is None or not abstention.needs_score:
            return {}
        sentence = self.voice.sentence(abstention.no_answer)
        scores = log_probabilities(self.model, prompts, sentence)
        return {
            number: replier.abstained(prompts[number], options, abstention)
            for number, score in enumerate(scores)
            if abstention.applies(score)
        }

    def _generated(self, prompts: Sequence[Sequence[int]], options: GenerateConfig) -> list[Answer]:
        voice = self.voice
        completions = complete(
            self.model, prompts, options, voice.stop_ids, voice.watch(options.stop)
        )
        each, answers = options.candidates, []
        for number, prompt in enumerate(prompts):
            drawn: list[Completion] = completions[number * each : (number + 1) * each]
            texts = [voice.text(completion.ids, options) for completion in drawn]
            best = most_agreed([text for text, _ in texts]) if each > 1 else 0
            answers.append(voice.answer(drawn[best], len(prompt), options, texts[best]))
        return answers
