"""Exam: the questions of an evaluation inside a run, and the memory that answering them takes.

Prompts are read a piece at a time (generate/engine.py). The keys and values of all that was read
are kept, those of answered questions too, until a bound (model/store.py). The held-out loss takes
less than a step does and is not counted.

Shapes: N tokens that are read together, H model width.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from quatrain.config import Config, GenerateConfig, ModelConfig
from quatrain.data.prepare import HOLDOUT_SEED, PreparedData
from quatrain.text.conversation import Conversation
from quatrain.train.settle import MOST_QUESTIONS

_FLOAT = 4
_GREEDY, _DRAWN = 1, 3
"""Copies of the logits of one token of each answer: of the likeliest token, or of one drawn."""
_SPARE = 1.25
"""Blocks that a GPU's buffers have room for, of those that are used: between 1 and 1.5
(model/store.py)."""
_BLOCK, _SCORES = 64, 1 << 20
"""Queries whose scores exist at one time, and the most scores, about (model/blocks.py)."""


@dataclass(frozen=True, slots=True)
class Exam:
    """What is read and answered."""

    sizes: tuple[int, ...]
    """Tokens of each prompt."""
    options: GenerateConfig
    """How answers are generated."""
    abstains: bool = False
    """Whether it is asked how likely it is that a question has no answer."""

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt."""
        return max(self.sizes)

    @property
    def rows(self) -> int:
        """Answers that are given side by side."""
        return min(self.options.batch_size, len(self.sizes) * self.options.candidates)

    @property
    def tokens(self) -> int:
        """Tokens of the prompts that are read side by side; candidates share theirs."""
        return -(-self.rows // self.options.candidates) * self.longest

    def needed(self, config: ModelConfig) -> int:
        """Count the bytes of keys and values of the longest prompt and its answer."""
        from quatrain.model.store import Store

        return Store(config).bytes_for(self.longest + self.options.max_new_tokens + 1)

    def bound(self, config: ModelConfig) -> int:
        """Count the bytes that keys and values may take together."""
        from quatrain.generate.engine import KEYS

        wanted = self.options.kv_bytes
        return max(KEYS, self.needed(config)) if wanted is None else wanted

    def parts(self, config: ModelConfig, on_gpu: bool = False) -> dict[str, int]:
        """Count what is held at the worst of three moments, in bytes by part.

        When the last prompts are read, when their first tokens are chosen, and when prompts with
        the sentence for no answer are read, which keeps nothing.
        """
        from quatrain.generate.abstain import TOKENS_AT_ONCE
        from quatrain.generate.engine import largest_piece

        cache, copies = self._cache(config, on_gpu), _DRAWN if self.options.temperature else _GREEDY
        moments = [
            {"cache": cache, **self._reading(config, min(largest_piece(config), self.tokens))},
            {"cache": cache, "logits": copies * self.rows * config.vocab_size * _FLOAT},
        ]
        if self.abstains:
            read = min(max(TOKENS_AT_ONCE, self.longest), sum(self.sizes))
            moments.append(self._reading(config, read))
        return max(moments, key=lambda parts: sum(parts.values()))

    def _cache(self, config: ModelConfig, on_gpu: bool) -> int:
        """Bytes of keys and values, of all prompts and of the longest answers, within the bound."""
        from quatrain.generate.engine import largest_piece
        from quatrain.model.store import Store, capacity_for

        store = Store(config, self.bound(config))
        share = self.bound(config) / sum(group.block_bytes for group in store.groups)
        begun = -(-min(self.tokens, largest_piece(config)) // store.size)
        answers = len(self.sizes) * self.options.candidates * self.options.max_new_tokens
        total = 0
        for group in store.groups:
            read = sum(size if group.chunk is None else size % group.chunk for size in self.sizes)
            begun_only = self.rows // 2  # each of those side by side has half a block more
            blocks = min(-(-(read + answers) // store.size) + begun_only, int(share))
            room = blocks
            if on_gpu:
                first = begun if group.chunk is None else min(begun, blocks)
                room = capacity_for(first, group.most, on_cpu=False)
                if room < blocks:
                    room = min(round(_SPARE * blocks), group.most or blocks)
            total += room * group.block_bytes
        return total

    def _reading(self, config: ModelConfig, tokens: int) -> dict[str, int]:
        """Bytes besides the cache while so many tokens are read together."""
        feed = tokens * _feed_forward(config) * _FLOAT
        return {
            "activations": tokens * (3 * config.d_model + config.d_k) * _FLOAT,
            "transient": max(self._attention(config, tokens), feed),
        }

    def _attention(self, config: ModelConfig, tokens: int) -> int:
        """Bytes of queries, results, keys and values twice, and the scores of a block twice.

        Long prompts are attended one by one, by a kernel that keeps no scores.
        """
        from quatrain.model.attention import LEAST_APART

        queries, keys = config.n_heads * config.d_k, config.n_kv_heads * config.d_k
        if sum(self.sizes) >= LEAST_APART * len(self.sizes):
            return tokens * (2 * queries + 4 * keys) * _FLOAT
        rows = -(-tokens // self.longest)
        each = rows * config.n_heads * min(self.longest, tokens) * min(self.longest, _BLOCK)
        return (tokens * (2 * queries + 4 * keys) + 2 * min(each, _SCORES)) * _FLOAT


def _feed_forward(config: ModelConfig) -> int:
    """Elements a token: gate, up and their product; of experts, copies before and after sorting."""
    if not config.moe_layers:
        return 3 * config.intermediate_size_mlp
    copies = config.num_experts_per_tok
    routed = copies * (2 * config.d_model + 3 * config.intermediate_size_expert)
    shared = 2 * copies * config.d_model + 3 * config.intermediate_size_shared
    return max(routed, shared)


def asked(config: Config, data: PreparedData) -> list[Conversation]:
    """Sample the questions of a run's evaluations: always the same ones."""
    wanted = config.evaluate.questions
    count = min(MOST_QUESTIONS if wanted is None else wanted, len(data.questions))
    return random.Random(HOLDOUT_SEED).sample(data.questions, count)


def exam_of(config: Config, data: PreparedData) -> Exam | None:
    """Describe what an evaluation asks; None where it asks nothing."""
    questions = asked(config, data)
    sizes = [
        len(data.chat.encode_prompt(list(question.messages[:-1]), data.tokenizer))
        for question in questions
    ]
    fitting = [size for size in sizes if size < config.model.max_position_embeddings]
    if not fitting:
        return None
    abstains = not all(one.has_answer for one in questions)
    return Exam(tuple(fitting), config.generate, abstains)
