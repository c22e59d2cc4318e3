"""The computed memory of answering is what torch allocates, and of the questions that are asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from allocated import allocated_by
from quatrain.config import GenerateConfig, ModelConfig
from quatrain.data.prepare import load_and_prepare_french_data
from quatrain.generate.engine import KEYS, complete
from quatrain.model.llama import LlamaModel
from quatrain.train.exam import Exam, asked, exam_of
from quatrain.train.judge import Judge
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
def test_the_predicted_memory_of_answers_is_what_torch_allocates(name: str, tmp_path: Path) -> None:
    changes, sizes, told = CASES[name]
    config = ModelConfig(**{**SHAPE, **changes})
    model = LlamaModel(config).eval()
    draw = torch.Generator().manual_seed(0)
    prompts = [torch.randint(8, 1000, (size,), generator=draw).tolist() for size in sizes]
    options = GenerateConfig(max_new_tokens=4, **told)

    def answer() -> None:
        complete(model, prompts, options, [1])

    answer()
    measured = allocated_by(answer, tmp_path / "trace.json")
    predicted = sum(Exam(tuple(sizes), options).parts(config).values())
    # buffers have grown to 1 to 1.5 times what is kept, and the middle is predicted
    assert predicted == pytest.approx(measured, rel=0.2 if len(sizes) > 4 else 0.1)


def test_the_cache_of_an_exam_stays_within_its_bound() -> None:
    config = ModelConfig(**{**SHAPE, "n_layers": 48, "attention_chunk_size": None})
    of_block = 16 * 2 * 48 * config.n_kv_heads * config.d_k * 4
    few, many = (
        Exam((160,) * number, GenerateConfig(max_new_tokens=16)).parts(config)["cache"]
        for number in (20, 1000)
    )
    assert 20 * 11 * of_block <= few <= 1.5 * 20 * 11 * of_block
    assert many == KEYS // of_block * of_block


def test_the_sentence_for_no_answer_is_read_with_more_prompts_together() -> None:
    config = ModelConfig(**{**SHAPE, "intermediate_size_expert": 4096})
    answers, abstains = (
        Exam((100,) * 50, GenerateConfig(), also).parts(config) for also in (False, True)
    )
    assert "cache" not in abstains
    assert abstains["transient"] > 3 * answers["transient"]


def test_the_exam_has_the_questions_that_are_asked(tmp_path: Path) -> None:
    config, data = load_and_prepare_french_data(tiny_run(tmp_path))
    exam = exam_of(config, data)
    judge = Judge(config, data, LlamaModel(config.model))
    assert judge.questions == asked(config, data)
    sizes = tuple(judge.answerer.prompt_size(one.messages[:-1]) for one in judge.questions)
    assert exam == Exam(sizes, config.generate)
    none = config.replace(evaluate=config.evaluate.replace(questions=0))
    assert exam_of(none, data) is None
