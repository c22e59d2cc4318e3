"""Adapters on a base that stays as it is stored, or is quantised as it is read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from frozen_bases import adapters_on, in_blocks, trained_base
from gguf_files import with_blocks
from quatrain.config import Config
from quatrain.errors import ConfigError
from quatrain.files import sha256
from quatrain.generate.answer import Answerer
from quatrain.hub.convert import Conversion, convert
from quatrain.model.adapter import quantised_base
from quatrain.model.frozen import Frozen
from quatrain.recipe import build
from quatrain.train.run import run
from tiny_run import stop_after, tiny_run

FILES = ("adapter_model.safetensors", "optimizer.safetensors", "state.json")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def gguf(base: Path) -> Path:
    return in_blocks(base)


def frozen_in(answerer: Answerer) -> list[Frozen]:
    return [one for one in answerer.model.modules() if isinstance(one, Frozen)]


def test_a_gguf_file_is_trained_on_as_it_is_and_asked(tmp_path: Path, gguf: Path) -> None:
    before = sha256(gguf)
    result = run(adapters_on(tmp_path, gguf), quiet=True)
    assert sha256(gguf) == before
    answerer = Answerer(result.run_dir)
    assert answerer.model.adapters
    assert frozen_in(answerer)
    assert answerer.model.base == str(gguf.resolve())
    question = "Le mur est bleu. De quelle couleur ?"
    assert answerer.answer(question, max_new_tokens=3) == answerer.answer(
        question, max_new_tokens=3
    )


def test_a_whole_model_is_trained_from_a_gguf_file(tmp_path: Path, gguf: Path) -> None:
    values = tiny_run(tmp_path, max_steps=2).model_dump(exclude_unset=True)
    result = run(build({**values, "model": {"init": str(gguf)}}), quiet=True)
    assert not frozen_in(Answerer(result.run_dir))


@pytest.mark.parametrize("model", [{}, {"quantize": "nf4"}, {"quantize": "int8"}])
def test_what_is_asked_is_what_was_trained(
    tmp_path: Path, base: Path, model: dict[str, str]
) -> None:
    result = run(adapters_on(tmp_path, base, **model), quiet=True)
    best = result.run_dir / "checkpoints" / "best"
    assert quantised_base(best) == model.get("quantize")
    kinds = {one.matrices[0].kind.name for one in frozen_in(Answerer(result.run_dir))}
    assert kinds == set(model.values())


@pytest.mark.parametrize("kind", ["F16", "F32"])
def test_what_is_asked_is_what_was_trained_on_numbers_of_a_gguf_file(
    kind: str, tmp_path: Path, base: Path, gguf: Path
) -> None:
    file = with_blocks(base.parent / "f32.gguf", tmp_path / "numbers.gguf", kind)
    result = run(adapters_on(tmp_path, file, quantize="nf4"), quiet=True)
    weights = [one for one in frozen_in(Answerer(result.run_dir)) if len(one.matrices) == 1]
    kinds = [one.matrices[0].kind.name for one in weights]
    assert set(kinds) == {"nf4", kind.lower()}
    assert kinds.count(kind.lower()) <= 2  # the embeddings and the head


def test_an_adapter_goes_on_from_the_base_that_it_was_trained_on(
    tmp_path: Path, base: Path
) -> None:
    first = run(adapters_on(tmp_path, base, "first", quantize="nf4"), quiet=True).run_dir
    again = run(adapters_on(tmp_path, first, "again"), quiet=True).run_dir
    assert quantised_base(again / "checkpoints" / "best") == "nf4"
    with pytest.raises(ConfigError, match=r"Q203.*nf4.*int8"):
        run(adapters_on(tmp_path, first, "other", quantize="int8"), quiet=True)


@pytest.mark.parametrize("kind", ["gguf", "nf4"])
def test_a_run_that_is_stopped_twice_equals_a_calm_one(
    kind: str, tmp_path: Path, base: Path, gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def config(name: str) -> Config:
        if kind == "gguf":
            return adapters_on(tmp_path, gguf, name)
        return adapters_on(tmp_path, base, name, quantize="nf4")

    calm = run(config("calm"), quiet=True)
    for step in (5, 7):
        with monkeypatch.context() as patch:
            stop_after(step, patch)
            assert run(config("stopped"), quiet=True).state.step == step
    stopped = run(config("stopped"), quiet=True)
    for name in FILES:
        one, other = (r.run_dir / "checkpoints" / "step-000012" / name for r in (calm, stopped))
        assert sha256(one) == sha256(other), name


@pytest.mark.parametrize("where", [0.3, 0.9])
def test_a_base_that_changed_by_a_bit_is_refused_by_name(
    where: float, tmp_path: Path, gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "own.gguf"
    own.write_bytes(gguf.read_bytes())
    stop_after(5, monkeypatch)
    run(adapters_on(tmp_path, own), quiet=True)
    data = bytearray(own.read_bytes())
    data[round(where * len(data))] ^= 1
    own.write_bytes(bytes(data))
    with pytest.raises(ConfigError, match=r"Q203.*own\.gguf changed"):
        run(adapters_on(tmp_path, own), quiet=True)


def test_a_checkpoint_without_the_hash_of_its_base_is_resumed(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_after(5, monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr("quatrain.train.run.files_of_base", lambda base: {})
        run(adapters_on(tmp_path, base), quiet=True)
    monkeypatch.undo()
    assert run(adapters_on(tmp_path, base), quiet=True).state.step == 12


def test_what_learns_is_float32_on_a_base_in_bfloat16(tmp_path: Path, base: Path) -> None:
    from quatrain.hub.opened import open_model
    from quatrain.train.run import build_model
    from quatrain.train.start import resolve

    half = tmp_path / "half"
    model = open_model(base / "checkpoints" / "best").to(torch.bfloat16)
    model.save_pretrained(half)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_format.json"):
        (half / name).write_bytes((base / "checkpoints" / "best" / name).read_bytes())
    config = adapters_on(tmp_path, half)
    start = resolve(config)
    built = build_model(start.config, start, None)
    dtypes = {p.dtype for p in built.parameters() if p.requires_grad}
    assert dtypes == {torch.float32}
    assert built.model.layers[0].self_attn.q_proj.weight.dtype == torch.bfloat16


@pytest.fixture(scope="module")
def stored(base: Path) -> dict[str, Path]:
    """The base, with its matrices stored in few bits."""
    made = {}
    for kind in ("nf4", "int8"):
        made[kind] = base.parent / f"stored-{kind}"
        convert(base, made[kind], Conversion(to="llama4", quantize=kind, check=False))
    return made


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_a_directory_in_few_bits_is_trained_on_as_quantising_its_source(
    kind: str, tmp_path: Path, base: Path, stored: dict[str, Path]
) -> None:
    before = sha256(stored[kind] / "model.safetensors")
    as_stored = run(adapters_on(tmp_path, stored[kind], "stored"), quiet=True).run_dir
    quantised = run(adapters_on(tmp_path, base, "quantised", quantize=kind), quiet=True).run_dir
    assert sha256(stored[kind] / "model.safetensors") == before
    one, other = (
        load_file(each / "checkpoints" / "best" / "adapter_model.safetensors")
        for each in (as_stored, quantised)
    )
    assert one.keys() == other.keys()
    assert all(torch.equal(factor, other[name]) for name, factor in one.items())
    answerer = Answerer(as_stored)
    assert {each.matrices[0].kind.name for each in frozen_in(answerer)} == {kind}
    assert answerer.answer("Le mur est bleu ?", max_new_tokens=3) == Answerer(quantised).answer(
        "Le mur est bleu ?", max_new_tokens=3
    )


def test_an_adapter_on_few_bits_is_merged_into_plain_numbers(
    tmp_path: Path, stored: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    trained = run(adapters_on(tmp_path, stored["nf4"]), quiet=True).run_dir
    with caplog.at_level("WARNING"):
        done = convert(trained, tmp_path / "merged", Conversion(to="llama4", merge=True))
    assert "stores its matrices as nf4" in caplog.text
    assert done.agreement is not None
    assert done.dtype == "f32"  # that of the embeddings
    merged = Answerer(tmp_path / "merged")
    assert not frozen_in(merged)
    ids = torch.randint(0, 300, (1, 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        one, other = merged.model(ids), Answerer(trained).model(ids)
    torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    again = Conversion(to="llama4", merge=True, quantize="nf4")
    assert frozen_in(Answerer(convert(trained, tmp_path / "again", again).directory))


def test_whole_weights_are_not_trained_in_few_bits(tmp_path: Path, stored: dict[str, Path]) -> None:
    values = tiny_run(tmp_path).model_dump(exclude_unset=True)
    for kind in stored:
        with pytest.raises(ConfigError, match=rf"Q203.*{kind}.*whole weights") as raised:
            run(build({**values, "model": {"init": str(stored[kind])}}), quiet=True)
        assert "train.adapter=lora" in str(raised.value)
    with pytest.raises(ConfigError, match=r"Q203.*nf4.*model.quantize=int8"):
        run(adapters_on(tmp_path, stored["nf4"], quantize="int8"), quiet=True)


def test_a_run_on_few_bits_that_is_stopped_equals_a_calm_one(
    tmp_path: Path, stored: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    calm = run(adapters_on(tmp_path, stored["nf4"], "calm"), quiet=True)
    with monkeypatch.context() as patch:
        stop_after(5, patch)
        run(adapters_on(tmp_path, stored["nf4"], "stopped"), quiet=True)
    stopped = run(adapters_on(tmp_path, stored["nf4"], "stopped"), quiet=True)
    for name in FILES:
        one, other = (r.run_dir / "checkpoints" / "step-000012" / name for r in (calm, stopped))
        assert sha256(one) == sha256(other), name
