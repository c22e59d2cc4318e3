"""The computed memory of answering is what torch allocates, and of the questions that are asked."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from allocated import allocated_by
from quatrain.config import Config, GenerateConfig, ModelConfig, TrainConfig
from quatrain.data.prepare import load_and_prepare_french_data
from quatrain.generate.engine import KEYS, complete
from quatrain.model.cache import Cache
from quatrain.model.llama import LlamaModel
from quatrain.model.store import Store
from quatrain.train.exam import Exam, asked, exam_of
from quatrain.train.judge import Judge
from quatrain.train.layer_memory import Work
from quatrain.train.plan import memory_for
from quatrain.train.shrink import smallest_change
from quatrain.train.site import Site
from tiny_run import tiny_run

SHAPE: dict[str, Any] = dict(
    vocab_size=1024, d_model=96, n_layers=3, n_heads=4, n_kv_heads=2, d_k=24,
    num_local_experts=4, intermediate_size_expert=160, intermediate_size_mlp=320,
)  # fmt: skip
DENSE: dict[str, Any] = {"moe_layers": ()}
CASES: dict[str, tuple[dict[str, Any], list[int], dict[str, Any]]] = {
    "experts": ({}, 4 * [200], {}),
    "dense": (DENSE, 4 * [200], {}),
    "two experts a token": ({"num_experts_per_tok": 2}, 4 * [200], {}),
    "many layers": ({**DENSE, "n_layers": 12}, 3 * [300], {}),
    "many questions": ({**DENSE, "n_layers": 6}, 20 * [100], {"batch_size": 4}),
    "chunks": ({**DENSE, "n_layers": 12, "attention_chunk_size": 64}, 4 * [200], {}),
    "a large vocabulary": ({**DENSE, "vocab_size": 30_000}, 32 * [20], {}),
    "three candidates": (
        {**DENSE, "n_layers": 12}, 3 * [120], {"candidates": 3, "temperature": 1.0},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore")  # the profiler's own
def test_the_predicted_memory_of_answers_is_what_torch_allocates(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes, sizes, told = CASES[name]
    config = ModelConfig(**{**SHAPE, **changes})
    model = LlamaModel(config).eval()
    draw = torch.Generator().manual_seed(0)
    prompts = [torch.randint(8, 1000, (size,), generator=draw).tolist() for size in sizes]
    options = GenerateConfig(max_new_tokens=4, **told)
    stores: list[Store] = []
    monkeypatch.setattr(LlamaModel, "new_cache", lambda self: _noted(Cache(Store(config)), stores))

    def answer() -> None:
        complete(model, prompts, options, [1])

    answer()
    measured = allocated_by(answer, tmp_path / "trace.json")
    parts = Exam(tuple(sizes), options).parts(config)
    # keys and values are mapped, and take memory where they were written
    written = sum(len(group.holders) * group.block_bytes for group in stores[-1].groups)
    assert parts["cache"] == pytest.approx(written, rel=0.1)
    assert sum(parts.values()) == pytest.approx(measured + written, rel=0.1)


def _noted(cache: Cache, stores: list[Store]) -> Cache:
    stores.append(cache.store)
    return cache


def test_a_gpu_has_room_for_more_blocks_than_are_used() -> None:
    config, exam = ModelConfig(**SHAPE), Exam((200,) * 40, GenerateConfig(batch_size=4))
    used, room = (exam.parts(config, on_gpu)["cache"] for on_gpu in (False, True))
    assert used < room <= 1.5 * used


def test_the_cache_of_an_exam_stays_within_its_bound() -> None:
    config = ModelConfig(**{**SHAPE, "n_layers": 48, "attention_chunk_size": None})
    of_block = 16 * 2 * 48 * config.n_kv_heads * config.d_k * 4
    few, many = (
        Exam((160,) * number, GenerateConfig(max_new_tokens=16)).parts(config)["cache"]
        for number in (20, 1000)
    )
    assert 20 * 11 * of_block <= few <= 1.5 * 20 * 11 * of_block
    assert many == KEYS // of_block * of_block


def test_the_bound_that_a_recipe_gives_is_that_of_the_cache() -> None:
    config = ModelConfig(**{**SHAPE, "n_layers": 48, "attention_chunk_size": None})
    exam = Exam((160,) * 1000, GenerateConfig(kv_memory="20MB"))
    of_block = 16 * 2 * 48 * config.n_kv_heads * config.d_k * 4
    assert exam.parts(config)["cache"] == 20 * 10**6 // of_block * of_block


@pytest.mark.parametrize(
    ("shape", "share", "change"),
    [({"n_layers": 48}, 0.6, r"generate\.kv_memory=\d+MB"),
     ({"vocab_size": 200_000}, 0.9, r"generate\.batch_size=\d+")],
)  # fmt: skip
def test_answers_that_do_not_fit_are_made_to(
    shape: dict[str, int], share: float, change: str
) -> None:
    model = ModelConfig(**{**SHAPE, **DENSE, "attention_chunk_size": None, **shape})
    train = TrainConfig(batch_size=1, micro_batch_size=1, loss_chunk_size=8)
    config, work = Config(model=model, train=train), Work(1, 32, 8)
    exam = Exam((160,) * 400, GenerateConfig(max_new_tokens=16, batch_size=400))
    step = memory_for(config, work, Site()).total
    whole = memory_for(config, work, Site(), exam).total
    assert whole > step
    free = round(step + share * (whole - step))
    found = smallest_change(config, work, Site(free=free), exam)
    assert found is not None
    assert re.fullmatch(change, found)


def test_the_sentence_for_no_answer_is_read_with_more_prompts_together() -> None:
    config = ModelConfig(**{**SHAPE, "intermediate_size_expert": 4096})
    answers, sentence = (
        Exam((100,) * 50, GenerateConfig(batch_size=8), also).parts(config)
        for also in (False, True)
    )
    assert "cache" not in sentence
    assert sentence["transient"] > 3 * answers["transient"]


def test_the_exam_has_the_questions_that_are_asked(tmp_path: Path) -> None:
    config, data = load_and_prepare_french_data(tiny_run(tmp_path))
    exam = exam_of(config, data)
    judge = Judge(config, data, LlamaModel(config.model))
    assert judge.questions == asked(config, data)
    sizes = tuple(judge.answerer.prompt_size(one.messages[:-1]) for one in judge.questions)
    assert exam == Exam(sizes, config.generate)
    none = config.replace(evaluate=config.evaluate.replace(questions=0))
    assert exam_of(none, data) is None
