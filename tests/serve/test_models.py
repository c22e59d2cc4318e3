"""Models beside each other: names, and one copy of a base for all its adapters."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from adapted import adapted_model
from foreign import text_tools
from live import by_weights, serving
from quatrain.errors import CheckpointError, ConfigError
from quatrain.generate.answer import Answerer
from quatrain.model.io import load_model
from quatrain.model.llama import LlamaModel
from quatrain.serve.models import names_of, open_models
from tiny import tiny_config, tiny_model


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A base, two adapters on it, and another model."""
    folder = tmp_path_factory.mktemp("models")
    config = tiny_config("every_layer_moe", vocab_size=512)
    base = tiny_model(config)
    base.save_pretrained(folder / "base")
    for seed, name in enumerate(("first", "second"), start=1):
        model = adapted_model(tiny_model(config), seed=seed)
        model.base = str(folder / "base")
        model.save_pretrained(folder / name)
    tiny_model(config, seed=5).save_pretrained(folder / "other")
    names = ("base", "first", "second", "other")
    for name in names:
        text_tools(folder / name)
    return {name: str(folder / name) for name in names}


def storages(model: LlamaModel) -> dict[str, int]:
    return {name: p.untyped_storage().data_ptr() for name, p in model.named_parameters()}


@pytest.mark.parametrize("quantize", [None, "int8"])
def test_adapters_of_a_base_share_its_weights(places: dict[str, str], quantize: str | None) -> None:
    models = open_models(list(places.values()), quantize)
    assert list(models) == ["base", "first", "second", "other"]
    held = {name: storages(one.answerer.model) for name, one in models.items()}
    frozen = {
        name: {b.data_ptr() for b in one.answerer.model.buffers() if b.ndim > 1}
        for name, one in models.items()
    }
    for name in ("first", "second"):
        adapters = {n for n in held[name] if "_lora." in n or ".lora." in n}
        assert adapters
        assert {n: held[name][n] for n in held[name].keys() - adapters} == held["base"]
        assert frozen[name] == frozen["base"]
        assert not {held[name][n] for n in adapters} & {*held["base"].values()}
    assert bool(frozen["base"]) == (quantize is not None)
    assert not {*held["other"].values()} & {*held["base"].values()}


def test_each_answers_as_if_it_were_alone(places: dict[str, str]) -> None:
    models = open_models(list(places.values()))
    alone = {name: Answerer(place).answer("Qui ?", max_new_tokens=8)
             for name, place in places.items()}  # fmt: skip
    assert len(set(alone.values())) == 4
    with serving(*models.values()) as live:
        for _ in range(2):
            for name in places:
                body = {"model": name, "messages": [{"role": "user", "content": "Qui ?"}],
                        "max_tokens": 8}  # fmt: skip
                found = live.http.post("/v1/chat/completions", json=body).json()
                assert found["choices"][0]["message"]["content"] == alone[name]
        bases = [one["base"] for one in live.http.get("/api/info").json()["models"]]
    assert bases == [None, places["base"], places["base"], None]


def test_without_a_shelf_nothing_is_shared(places: dict[str, str]) -> None:
    one, other = (load_model(Path(places["base"]), torch.float32, "cpu") for _ in range(2))
    assert not {*storages(one).values()} & {*storages(other).values()}


def test_memory_bounds_what_may_be_asked(places: dict[str, str]) -> None:
    [one] = open_models([places["base"]], kv_memory=10**9).values()
    assert one.context == 512
    need = one.engine.store.bytes_for(201)
    [bounded] = open_models([places["base"]], kv_memory=need).values()
    assert 200 <= bounded.context < 512
    with serving(bounded) as live:
        body = {"messages": [{"role": "user", "content": "mot " * 400}]}
        answer = live.http.post("/v1/chat/completions", json=body)
        assert answer.json()["error"]["code"] == "context_length_exceeded"
        body = {"messages": [{"role": "user", "content": "Qui ?"}]}
        answer = live.http.post("/v1/chat/completions", json=body)
        assert answer.json()["usage"]["total_tokens"] <= bounded.context
    with pytest.raises(ConfigError, match="64 tokens need"):
        open_models([places["base"], places["other"]], kv_memory=1_000)


def test_models_are_named_by_the_last_parts_that_tell_them_apart(tmp_path: Path) -> None:
    assert names_of(["runs/demo", "org/name", "/a/b/faq/"]) == ["demo", "name", "faq"]
    assert names_of(["a/best", "b/best", "c"]) == ["a/best", "b/best", "c"]
    assert names_of(["best", "a/best"]) == ["best", "a/best"]
    assert names_of(["m", "m"]) == ["m", "m-2"]
    file = tmp_path / "small.Q4_1.gguf"
    file.write_bytes(b"GGUF")
    assert names_of([str(file)]) == ["small.Q4_1"]


def test_a_model_that_is_not_there_is_told(places: dict[str, str]) -> None:
    with pytest.raises(CheckpointError):
        open_models([places["base"], "nowhere"])


def test_a_model_without_a_name_is_the_first(places: dict[str, str]) -> None:
    models = open_models([places["first"], places["base"]])
    assert models.named(None) is models["first"]
    with serving(by_weights(models["base"].answerer, "base")) as live:
        body = {"messages": [{"role": "user", "content": "Qui ?"}], "max_tokens": 2}
        assert live.http.post("/v1/chat/completions", json=body).json()["model"] == "base"
