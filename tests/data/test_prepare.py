"""Preparing: nothing is lost, nothing leaks, and a second preparation gives the same rows."""

import json
import logging
import re
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quatrain.config import Config, DataConfig
from quatrain.data import encode as encode_module
from quatrain.data import prepare
from quatrain.data import records as records_module
from quatrain.data.encode import Encoder, ahead, cut
from quatrain.data.fingerprint import fingerprint
from quatrain.data.prepare import PreparedData, load_and_prepare_french_data
from quatrain.data.records import Records, holdout, load_records
from quatrain.data.rows import Block, Rows
from quatrain.errors import DataError
from quatrain.files import damage
from quatrain.recipe import load_config
from quatrain.text.chat import ChatFormat
from quatrain.text.conversation import Conversation, Document, Message
from quatrain.text.tokenizer import SimpleCharTokenizer, Tokenizer, train_bpe

CHAT = ChatFormat()


def each_of(block: Block) -> list[tuple[np.ndarray, np.ndarray]]:
    ends = np.cumsum(block.lengths)  # a block may be empty
    parts = (np.split(values, ends)[:-1] for values in (block.ids, block.mask))
    return [*zip(*parts, strict=True)]


def questions(number: int) -> list[dict[str, Any]]:
    return [
        {"instruction": f"Combien font {i} et un ?", "input": "", "output": f"Ils font {i + 1}."}
        for i in range(number)
    ]


def write(path: Path, rows: list[Any]) -> Path:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")
    return path


def config_for(tmp_path: Path, *train: Path, task: str = "sft", **data: Any) -> Config:
    sources = [str(path) for path in train] or [str(write(tmp_path / "q.jsonl", questions(40)))]
    return Config.model_validate(
        {
            "run_dir": tmp_path / "run",
            "tokenizer": {"kind": "char"},
            "data": {"train": sources, "block_size": 128, **data},
            "train": {"task": task},
        }
    )


def documents(rows: Rows) -> int:
    return sum(len(row.segments) for row in rows)


def all_bytes(directory: Path) -> dict[str, bytes]:
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in files}


# --- records -------------------------------------------------------------------------------------


def mutated(number: int) -> bytes:
    """Record `number`, sound or broken in one of ten ways by its number."""
    row = {"instruction": f"Où est l'été {number} ?", "input": "", "output": f"Là, n° {number}."}
    line = json.dumps(row, ensure_ascii=number % 2 == 0).encode()
    middle = len(line) // 2
    return {
        1: line[:-2],
        2: line[:middle] + b"\0" + line[middle:],
        3: b"\xef\xbb\xbf" + line,
        4: line.replace(b"input", b"\xe9\xff"),
        5: line.replace(b'"input": ""', b'"input": "\\udc9f"'),
        6: line.replace(b"input", b"output"),
        7: line.replace(b'""', b"NaN"),
        8: line.replace(b'""', b"[" * 3000 + b"]" * 3000),
        9: line.decode().encode("utf-16"),
        10: line.replace(b'""', b"{"),
    }.get(number % 20, line)


def test_twenty_thousand_mutated_records_are_each_good_or_rejected(tmp_path: Path) -> None:
    total = 20_000
    # UTF-16 has line feeds of two bytes, and never one inside these records
    lines = b"".join(mutated(number) + b"\n" for number in range(total))
    (tmp_path / "a.jsonl").write_bytes(lines)
    records = load_records([str(tmp_path / "a.jsonl")], DataConfig(max_bad_fraction=0.51), tmp_path)
    assert records.total == total
    assert len(records.rejected) == total // 2
    assert len(records.conversations) == total // 2
    listed = (tmp_path / "rejected.jsonl").read_text(encoding="utf-8").splitlines()
    numbers = [int(json.loads(line)["location"].removeprefix("a.jsonl:")) for line in listed]
    assert numbers == [n + 1 for n in range(total) if 1 <= n % 20 <= 10]
    assert all(json.loads(line)["reason"] for line in listed)


def test_too_many_bad_records_stop_with_the_first_five(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [*questions(20), *[{"instruction": "x", "output": ""}] * 7])
    pattern = r"(?s)7 of 27 records cannot be used, 25\.93%\. data\.max_bad_fraction allows 1\.00%:"
    first = r"\n  a\.jsonl:21: answer \(output\) is empty.*a\.jsonl:25: .*\n  and 2 more"
    with pytest.raises(DataError, match=pattern + first) as caught:
        load_records([str(path)], DataConfig(), tmp_path)
    assert "a.jsonl:26" not in caught.value.message
    assert "rejected.jsonl" in caught.value.remedy
    assert len((tmp_path / "rejected.jsonl").read_text(encoding="utf-8").splitlines()) == 7


def test_bad_records_within_the_tolerance_are_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [*questions(99), {"instruction": "x", "output": ""}])
    records = load_records([str(path)], DataConfig())
    assert (records.total, len(records), len(records.rejected)) == (100, 99, 1)


def test_a_source_without_records_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [])
    with pytest.raises(DataError, match=r"no records in .*a\.jsonl"):
        load_records([str(path)], DataConfig())


def test_limit_takes_the_first_good_records_and_says_so(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", questions(10))
    records = load_records([str(path)], DataConfig(limit=4))
    assert [item.source for item in records.conversations] == [f"a.jsonl:{n}" for n in (1, 2, 3, 4)]
    assert records.notes[-1] == "data.limit=4 reached: the rest was not read"


def grouped(*groups: str) -> Records:
    turns = (Message("user", "q"), Message("assistant", "r"))
    return Records([Conversation(turns, ("r",), group, f"f:{i}") for i, group in enumerate(groups)])


def test_no_group_is_on_both_sides_of_the_holdout() -> None:
    records = grouped(*(f"g{i % 50}" for i in range(500)))
    train, held = holdout(records, 0.1, seed=0)
    left, right = ({item.group for item in part} for part in (train, held))
    assert not left & right
    assert (len(left), len(right)) == (45, 5)
    assert (len(train), len(held)) == (450, 50)


def test_the_holdout_depends_on_the_seed_and_not_on_the_order() -> None:
    names = [f"g{i}" for i in range(60)]
    groups = {item.group for item in holdout(grouped(*names), 0.2, seed=1)[1]}
    assert groups == {item.group for item in holdout(grouped(*names[::-1]), 0.2, seed=1)[1]}
    assert groups != {item.group for item in holdout(grouped(*names), 0.2, seed=2)[1]}


def test_the_smallest_holdout_is_one_group_on_each_side() -> None:
    assert [len(part) for part in holdout(grouped("a", "b"), 0.01, 0)] == [1, 1]
    assert [len(part) for part in holdout(grouped("a", "b"), 0.99, 0)] == [1, 1]
    with pytest.raises(DataError, match=r"needs at least two groups .* the data has 1"):
        holdout(grouped("a", "a"), 0.5, 0)


# --- from files to rows --------------------------------------------------------------------------


def test_a_row_holds_the_words_of_its_conversations_and_trains_on_answers_alone(
    tmp_path: Path,
) -> None:
    config, data = load_and_prepare_french_data(config_for(tmp_path, packing="padded"))
    row = data.train[0]
    said = data.tokenizer.decode(row.ids[row.mask].tolist())
    assert said == "Ils font 1."
    assert row.ids[row.mask][-1] == data.tokenizer.control_id("<|eot|>")
    assert row.segments == [row.num_used]
    assert config.model.pad_token_id == row.ids[-1]


def test_the_returned_config_is_completed_and_the_given_one_is_not(tmp_path: Path) -> None:
    given = config_for(tmp_path)
    config, data = load_and_prepare_french_data(given)
    assert given.model.pad_token_id is None
    assert config.model.vocab_size == data.tokenizer.vocab_size
    assert config.model.bos_token_id == data.tokenizer.control_id("<|begin_of_text|>")
    assert set(config.model.eos_token_ids) == CHAT.stop_ids(data.tokenizer)
    assert config.model.pad_token_id not in config.model.eos_token_ids


def test_a_loaded_models_vocabulary_is_kept(tmp_path: Path) -> None:
    given = config_for(tmp_path)
    given = given.replace(model=given.model.replace(init="elsewhere", vocab_size=999))
    config, _ = load_and_prepare_french_data(given, SimpleCharTokenizer("Combien font-ils ?"))
    assert config.model.vocab_size == 999


def test_packed_rows_hold_every_conversation_once(tmp_path: Path) -> None:
    _, data = load_and_prepare_french_data(config_for(tmp_path))
    begin = data.tokenizer.control_id("<|begin_of_text|>")
    pieces = [
        tuple(piece.tolist())
        for row in data.train
        for piece in np.split(row.ids[: row.num_used], np.flatnonzero(row.ids == begin)[1:])
    ]
    records = load_records([str(tmp_path / "q.jsonl")], DataConfig()).conversations
    encoded = CHAT.encode_conversations(records, data.tokenizer)
    assert sorted(pieces) == sorted(tuple(item.ids) for item in encoded)


def test_the_report_counts_what_happened(tmp_path: Path) -> None:
    rows = [*questions(198), questions(1)[0]]
    rows.append({"instruction": "Que dit <|eot|> ?", "input": "", "output": "Rien."})
    rows.append({"instruction": "Vide ?", "input": "", "output": ""})
    judged = write(tmp_path / "e.jsonl", [*questions(2), {"question": "Et ?", "answer": "Oui."}])
    path = write(tmp_path / "t.jsonl", rows)
    _, data = load_and_prepare_french_data(config_for(tmp_path, path, eval=[str(judged)]))
    report = data.report
    assert (report["records"], report["rejected"]) == (204, 1)
    assert (report["duplicates"], report["leaks"]) == (1, 2)
    train = report["train"]
    assert (train["conversations"], train["too_long"], train["control_like"]) == (200, 0, 1)
    assert train["tokens"] == data.train.num_tokens == sum(row.num_used for row in data.train)
    assert train["answer_tokens"] == sum(row.mask.sum() for row in data.train)
    assert train["positions_used"] == pytest.approx(train["tokens"] / (len(data.train) * 128), 1e-5)
    assert report["eval"]["conversations"] == len(data.questions) == 3
    assert json.loads((tmp_path / "run/data/report.json").read_text(encoding="utf-8")) == report


def test_held_out_questions_are_judged_and_answered_and_never_learnt(tmp_path: Path) -> None:
    _, data = load_and_prepare_french_data(config_for(tmp_path, holdout=0.25))
    assert data.eval is not None
    assert (documents(data.train), documents(data.eval), len(data.questions)) == (30, 10, 10)
    assert data.report["leaks"] == 0
    learnt = "".join(data.tokenizer.decode(row.ids.tolist()) for row in data.train)
    assert not [item for item in data.questions if item.messages[0].content in learnt]


def test_the_seed_of_a_run_does_not_move_the_holdout(tmp_path: Path) -> None:
    config = config_for(tmp_path, holdout=0.25)
    other = config.replace(train=config.train.replace(seed=7))
    first = load_and_prepare_french_data(config, directory=tmp_path / "a")[1].questions
    assert load_and_prepare_french_data(other, directory=tmp_path / "b")[1].questions == first


def test_the_hubs_alpaca_saved_to_disk_is_prepared(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_list(questions(30)).save_to_disk(str(tmp_path / "alpaca"))
    _, data = load_and_prepare_french_data(config_for(tmp_path, tmp_path / "alpaca"))
    assert documents(data.train) == 30
    again = load_and_prepare_french_data(config_for(tmp_path, tmp_path / "alpaca"))[1]
    assert again.report == data.report


def test_a_path_that_is_not_there_is_no_name_on_the_hub(tmp_path: Path) -> None:
    for name in ("q.json", "a/b/c"):
        with pytest.raises(DataError, match="no such file or folder"):
            load_and_prepare_french_data(config_for(tmp_path, tmp_path / name))


@pytest.mark.parametrize("several", [False, True])
def test_french_text_reads_a_folder_of_one_file_or_of_several(
    tmp_path: Path, several: bool
) -> None:
    (tmp_path / "romans").mkdir()
    for name in ("a", "b")[: 1 + several]:
        (tmp_path / f"romans/{name}.txt").write_text(TEXT, encoding="utf-8")
    overrides = [f"data.train={tmp_path}/romans/", f"run_dir={tmp_path}/run", "tokenizer.kind=char"]
    _, data = load_and_prepare_french_data(load_config("french-text", overrides))
    assert data.report["train"]["documents"] == 1 + several
    line = load_config("french-text", [*overrides, "data.document=line", "data.holdout=0.1"])
    assert load_and_prepare_french_data(line)[1].eval is not None


def test_a_hub_dataset_is_made_again_when_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    datasets = pytest.importorskip("datasets")
    number = 30
    monkeypatch.setattr(
        datasets, "load_dataset", lambda name, split: datasets.Dataset.from_list(questions(number))
    )
    config = config_for(tmp_path, Path("AIffl/Alpaca_french.v2"))
    _, data = load_and_prepare_french_data(config)
    assert documents(data.train) == 30
    number = 31
    used, data = prepared_twice(config, caplog)
    assert not used
    assert documents(data.train) == 31


# --- what does not fit ---------------------------------------------------------------------------


def test_long_conversations_are_set_aside_whole_and_named(tmp_path: Path) -> None:
    long = {"question": "Long ?", "answer": "très " * 40}
    path = write(tmp_path / "t.jsonl", [*questions(39), long])
    _, data = load_and_prepare_french_data(config_for(tmp_path, path))
    assert documents(data.train) == 39
    assert (data.report["train"]["conversations"], data.report["train"]["too_long"]) == (40, 1)
    [line] = (tmp_path / "run/data/too_long.jsonl").read_text(encoding="utf-8").splitlines()
    tokens = data.report["train"]["longest"]
    assert json.loads(line) == {"split": "train", "location": "t.jsonl:40", "tokens": tokens}


def test_too_many_long_conversations_stop_with_a_block_size_that_works(tmp_path: Path) -> None:
    long = {"question": "Long ?", "answer": "très " * 40}
    path = write(tmp_path / "t.jsonl", [*questions(10), long])
    with pytest.raises(
        DataError, match=r"1 of 11 conversations .* would lose part of .* t\.jsonl:11"
    ) as caught:
        load_and_prepare_french_data(config_for(tmp_path, path))
    assert not (tmp_path / "run/data/train").exists()
    assert (tmp_path / "run/data/too_long.jsonl").exists()
    [size] = re.findall(r"block_size=(\d+)", caught.value.remedy)
    _, data = load_and_prepare_french_data(config_for(tmp_path, path, block_size=int(size)))
    assert data.report["train"]["too_long"] == 0
    assert int(size) - 64 < data.report["train"]["longest"] <= int(size)


def test_data_in_which_no_answer_survives_is_an_error(tmp_path: Path) -> None:
    config = config_for(tmp_path, block_size=16, max_cut_fraction=1.0)
    with pytest.raises(
        DataError, match=r"no answer token fits in data\.block_size=16\. Of 40"
    ) as e:
        load_and_prepare_french_data(config)
    assert e.value.code == "Q303"


def test_plain_text_in_sft_is_an_error_that_names_pretraining(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Il pleut.\n", encoding="utf-8")
    with pytest.raises(
        DataError, match=r"1 record is plain text without answers \(the first: a\.txt:1\)"
    ) as e:
        load_and_prepare_french_data(config_for(tmp_path, tmp_path / "a.txt"))
    assert "quatrain pretrain" in e.value.remedy


TEXT = "".join(f"Phrase {i} : l'été, où {'a' * (i % 7)} va. Et puis non !\n" for i in range(120))


def test_a_long_document_becomes_pieces_that_lose_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(TEXT, encoding="utf-8")
    config = config_for(tmp_path, tmp_path / "a.txt", task="pretrain", packing="padded")
    _, data = load_and_prepare_french_data(config)
    assert data.report["train"]["pieces"] == len(data.train) > 1
    pieces = [row.ids[: row.num_used].tolist() for row in data.train]
    assert "".join(map(data.tokenizer.decode, pieces)) == TEXT
    begin = data.tokenizer.control_id("<|begin_of_text|>")
    assert all(piece[0] == begin and begin not in piece[1:] for piece in pieces)
    end = data.tokenizer.control_id("<|end_of_text|>")
    assert [piece[-1] == end for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert all(row.mask.sum() == row.num_used - 1 for row in data.train)


def spied(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Note how many characters each call of the tokenizer is given."""
    sizes: list[int] = []
    encode, encode_batch = Tokenizer.encode, Tokenizer.encode_batch

    def one(self: Tokenizer, text: str) -> list[int]:
        sizes.append(len(text))
        return encode(self, text)

    def many(self: Tokenizer, texts: list[str]) -> list[list[int]]:
        sizes.append(sum(map(len, texts)))
        return encode_batch(self, texts)

    monkeypatch.setattr(Tokenizer, "encode", one)
    monkeypatch.setattr(Tokenizer, "encode_batch", many)
    return sizes


@pytest.mark.parametrize("end", ["\n", ". ", " ", ""])
def test_however_much_there_is_little_is_encoded_at_one_time(
    monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    tokenizer = SimpleCharTokenizer("été !\n.")
    long, short = ("été" * 20 + end) * 5000, "été" * 30
    records = Records(documents=[Document(text, "g", "s") for text in [long, *[short] * 4000]])
    turns = (Message("user", short), Message("assistant", short))
    records.conversations = [Conversation(turns, (short,), "g", "s")] * 2000
    encoder, sizes = Encoder(tokenizer, CHAT, 128, "pretrain"), spied(tokenizer, monkeypatch)
    rows = [ids.tolist() for block in encoder.stream(records) for ids, _ in each_of(block)]
    assert max(sizes) <= 1 << 18
    assert (len(encoder.counts.too_long), len(rows)) == (2000, encoder.counts.pieces + 4000)
    assert "".join(map(tokenizer.decode, rows[:-4000])) == long


def test_a_long_document_that_fits_is_one_row() -> None:
    tokenizer = train_bpe(["a" * 64] * 20, 300)
    encoder = Encoder(tokenizer, CHAT, 128, "pretrain")
    records = Records(documents=[Document("a" * 3000, "g", "s")])
    [(ids, mask)] = [one for block in encoder.stream(records) for one in each_of(block)]
    assert ids.tolist() == CHAT.encode_document("a" * 3000, tokenizer).ids
    assert (mask.sum(), encoder.counts.pieces) == (len(ids) - 1, 0)


def test_the_vocabulary_of_a_long_document_is_learnt_by_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    monkeypatch.setattr(prepare, "train_bpe", lambda texts, size, elisions: seen.extend(texts))
    text = TEXT * 200
    config = config_for(tmp_path)
    config = config.replace(tokenizer=config.tokenizer.replace(kind="bpe"))
    prepare.train_tokenizer(config, Records(documents=[Document(text, "g", "s")]))
    assert len(seen) > 1
    assert max(map(len, seen)) <= 1 << 18
    assert "".join(seen) == text
    assert all(part.endswith("\n") for part in seen)


def test_pieces_end_where_a_line_or_a_sentence_does(tmp_path: Path) -> None:
    tokenizer = train_bpe([TEXT], 400)
    pieces = [tokenizer.decode(piece) for piece in cut(TEXT, 60, tokenizer)]
    assert "".join(pieces) == TEXT
    assert all(piece.endswith(("\n", ".", "!")) for piece in pieces)


@pytest.mark.parametrize("text", ["a" * 500, "é " * 300, "\n" * 300, "une phrase sans fin " * 40])
def test_text_without_boundaries_is_cut_all_the_same(text: str) -> None:
    for tokenizer in (SimpleCharTokenizer(text), train_bpe([TEXT], 300)):
        pieces = list(cut(text, 32, tokenizer))
        assert "".join(map(tokenizer.decode, pieces)) == text
        assert max(map(len, pieces)) <= 32


def test_pretraining_reads_conversations_and_trains_on_all_of_them(tmp_path: Path) -> None:
    _, data = load_and_prepare_french_data(config_for(tmp_path, task="pretrain"))
    assert data.train.num_targets == data.train.num_tokens - documents(data.train)


# --- once, and again -----------------------------------------------------------------------------


def prepared_twice(config: Config, caplog: pytest.LogCaptureFixture) -> tuple[bool, PreparedData]:
    """Prepare again; say whether what was there was used."""
    caplog.clear()
    with caplog.at_level(logging.INFO):
        _, data = load_and_prepare_french_data(config)
    return "using the data prepared earlier" in caplog.text, data


def test_prepared_data_is_used_again_and_is_equal(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = config_for(tmp_path, holdout=0.25)
    first_config, first = load_and_prepare_french_data(config)
    used, second = prepared_twice(config, caplog)
    assert used
    assert second.questions == first.questions
    assert second.report == first.report
    assert load_and_prepare_french_data(config)[0] == first_config
    assert [row.ids.tolist() for row in second.train] == [row.ids.tolist() for row in first.train]


def test_questions_come_back_with_the_odd_ends_of_lines_they_have(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    odd = {"question": "Où\u2028 ?\u0085", "answer": "Là\u2029-bas.\n\r\nOui."}
    judged = write(tmp_path / "e.jsonl", [odd, odd])
    config = config_for(tmp_path, eval=[str(judged)])
    first = load_and_prepare_french_data(config)[1].questions
    assert first[0].answers == (odd["answer"],)
    used, data = prepared_twice(config, caplog)
    assert used
    assert data.questions == first


@pytest.mark.parametrize(
    "change", [{"block_size": 256}, {"holdout": 0.5}, {"packing": "padded"}, {"limit": 20}]
)
def test_another_data_section_is_another_preparation(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, change: dict[str, Any]
) -> None:
    load_and_prepare_french_data(config_for(tmp_path))
    assert not prepared_twice(config_for(tmp_path, **change), caplog)[0]
    assert not prepared_twice(config_for(tmp_path), caplog)[0]


def test_what_moves_no_bit_makes_nothing_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "d").mkdir()
    path = write(tmp_path / "d/q.jsonl", questions(40))
    load_and_prepare_french_data(config_for(tmp_path, path))
    monkeypatch.chdir(tmp_path)
    for train in ("d/q.jsonl", f"../{tmp_path.name}/d/q.jsonl", "d"):
        assert prepared_twice(config_for(tmp_path, Path(train)), caplog)[0], train
    wide = config_for(tmp_path, path, max_bad_fraction=0.5, max_cut_fraction=1)
    assert prepared_twice(wide, caplog)[0]


@pytest.mark.parametrize("name", ["max_bad_fraction", "max_cut_fraction"])
def test_a_stricter_tolerance_is_asked_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    long = {"question": "Long ?", "answer": "très " * 40}
    path = write(tmp_path / "t.jsonl", [*questions(30), long, {"question": "", "answer": ""}])
    loose = {"max_bad_fraction": 0.5, "max_cut_fraction": 0.5}
    load_and_prepare_french_data(config_for(tmp_path, path, **loose))
    assert prepared_twice(config_for(tmp_path, path, **loose), caplog)[0]
    with pytest.raises(DataError, match=name):
        load_and_prepare_french_data(config_for(tmp_path, path, **{**loose, name: 0.0}))


def test_what_is_learnt_and_what_is_judged_are_not_the_same_when_swapped(tmp_path: Path) -> None:
    one, two = (write(tmp_path / f"{n}.jsonl", questions(n)) for n in (30, 31))
    keys = {
        fingerprint(config_for(tmp_path, *train, eval=judged), None, CHAT)
        for train, judged in (([one], [str(two)]), ([two], [str(one)]), ([one, two], []))
    }
    assert len(keys) == 3


def test_another_byte_tokenizer_or_chat_format_is_another_preparation(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = config_for(tmp_path)
    load_and_prepare_french_data(config)
    write(tmp_path / "q.jsonl", questions(41))
    assert not prepared_twice(config, caplog)[0]
    with caplog.at_level(logging.INFO):
        load_and_prepare_french_data(config, chat=ChatFormat(assistant_role="user"))
        load_and_prepare_french_data(config, train_bpe([TEXT], 400))
    assert "prepared earlier" not in caplog.text


def test_removing_the_holdout_removes_its_rows(tmp_path: Path) -> None:
    load_and_prepare_french_data(config_for(tmp_path, holdout=0.25))
    _, data = load_and_prepare_french_data(config_for(tmp_path))
    assert data.eval is None
    assert not (tmp_path / "run/data/eval").exists()


FILES = ["train/ids.bin", "train/mask.bin", "eval/documents.bin", "eval/questions.jsonl"]


@pytest.mark.parametrize("name", [*FILES, "tokenizer/tokenizer.json"])
def test_damaged_rows_are_found_named_and_made_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    config = config_for(tmp_path, holdout=0.25)
    load_and_prepare_french_data(config)
    before = all_bytes(tmp_path / "run/data")
    path = tmp_path / "run/data" / name
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    used, _ = prepared_twice(config, caplog)
    assert not used
    assert "preparing the data again" in caplog.text
    assert Path(name).name in caplog.text
    assert all_bytes(tmp_path / "run/data") == before


class Killed(BaseException):
    """Stands for a process that ends without cleaning up."""


def test_killed_anywhere_and_run_again_it_gives_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_for(tmp_path, holdout=0.25)
    load_and_prepare_french_data(config)
    whole = all_bytes(tmp_path / "run/data")
    for function in ("os.rename", "os.replace", "quatrain.files.fsync_path", "shutil.rmtree"):
        for number in range(40):
            count = iter(range(10_000))
            module, _, name = function.rpartition(".")
            real = getattr(__import__(module, fromlist=[name]), name)

            def killer(*args: Any, real: Any = real, count: Any = count, **kwargs: Any) -> Any:
                if next(count) >= number:  # noqa: B023
                    raise Killed
                return real(*args, **kwargs)

            (tmp_path / "run/data/report.json").unlink(missing_ok=True)
            with monkeypatch.context() as patch:
                patch.setattr(function, killer)
                try:
                    load_and_prepare_french_data(config)
                except Killed:
                    continue
                break
        load_and_prepare_french_data(config)
        assert all_bytes(tmp_path / "run/data") == whole


def test_every_directory_is_sealed(tmp_path: Path) -> None:
    load_and_prepare_french_data(config_for(tmp_path, holdout=0.25))
    for name in ("train", "eval", "tokenizer"):
        assert damage(tmp_path / "run/data" / name) is None


def test_the_tokenizer_learns_from_training_text_alone(tmp_path: Path) -> None:
    judged = write(tmp_path / "e.jsonl", [{"question": "Ж ?", "answer": "Ж."}])
    _, data = load_and_prepare_french_data(config_for(tmp_path, eval=[str(judged)]))
    assert data.tokenizer.encode("Ж") == [data.tokenizer.unknown_id]


def test_a_tokenizer_on_disk_is_used(tmp_path: Path) -> None:
    train_bpe([TEXT], 400).save(tmp_path / "tokenizer")
    config = config_for(tmp_path)
    config = config.replace(tokenizer=config.tokenizer.replace(path=str(tmp_path / "tokenizer")))
    completed, data = load_and_prepare_french_data(config)
    loaded = Tokenizer.load(tmp_path / "tokenizer")
    assert completed.model.vocab_size == loaded.vocab_size
    assert data.tokenizer.encode("l'été") == loaded.encode("l'été")


def test_documents_are_held_out_by_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(TEXT, encoding="utf-8")
    config = config_for(tmp_path, tmp_path / "a.txt", task="pretrain", document="line", holdout=0.1)
    _, data = load_and_prepare_french_data(config)
    assert data.eval is not None
    assert (documents(data.train), documents(data.eval)) == (108, 12)
    assert data.questions == []


def test_records_keep_documents_and_conversations_apart() -> None:
    records = Records()
    records.add(Document("x", "x", "f:1"))
    assert [len(records), records.total, records.bad_fraction] == [1, 1, 0.0]


def test_results_come_in_order_while_the_next_is_worked_on() -> None:
    begun = [threading.Event() for _ in range(4)]

    def work(item: int) -> int:
        begun[item].set()
        return item * item

    found = []
    for item, result in ahead(work, range(4)):
        assert item == 3 or begun[item + 1].wait(timeout=10)
        found.append((item, result))
    assert found == [(0, 0), (1, 1), (2, 4), (3, 9)]
    assert list(ahead(work, [])) == []


def test_what_the_thread_raises_comes_at_the_items_turn() -> None:
    results = ahead(lambda item: 6 // item, [3, 0, 1])
    assert next(results) == (3, 2)
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_a_long_preparation_says_how_far_it_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records_module, "TOLD_EVERY", 15)
    monkeypatch.setattr(prepare, "TOLD_EVERY", 15)
    monkeypatch.setattr(encode_module, "_BLOCK", 200)
    with caplog.at_level(logging.INFO):
        load_and_prepare_french_data(config_for(tmp_path))
    told = [message for message in caplog.messages if re.match(r"\d+ (of|records read)", message)]
    assert told[:2] == ["15 records read", "30 records read"]
    assert len(told) == 4
    for message in told[2:]:
        assert re.fullmatch(r"(1[5-9]|3\d) of 40 records encoded", message)


@pytest.mark.parametrize("stop", [{"max_cut_fraction": 0.0}, {"eval": ["nowhere.jsonl"]}])
def test_what_waits_in_files_is_gone_when_a_preparation_stops(
    tmp_path: Path, stop: dict[str, Any]
) -> None:
    long = {"question": "Long ?", "answer": "très " * 40}
    path = write(tmp_path / "t.jsonl", [*questions(39), long])
    with pytest.raises(DataError):
        load_and_prepare_french_data(config_for(tmp_path, path, **stop))
    left = {item.name for item in (tmp_path / "run/data").iterdir()}
    assert left <= {"rejected.jsonl", "too_long.jsonl", "tokenizer"}


def test_duplicates_are_counted_among_the_training_records_alone(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Un.\nDeux.\nUn.\n", encoding="utf-8")
    twice = write(tmp_path / "t.jsonl", [*questions(5), *questions(3)])
    judged = write(tmp_path / "e.jsonl", [*questions(2), *questions(2)])
    sources, data = [twice, tmp_path / "a.txt"], {"eval": [str(judged)], "document": "line"}
    config = config_for(tmp_path, *sources, task="pretrain", **data)
    assert load_and_prepare_french_data(config)[1].report["duplicates"] == 4
