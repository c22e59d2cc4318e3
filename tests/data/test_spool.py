"""The spool: records come out as they went in, and no file is left behind."""

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from quatrain.config import DataConfig
from quatrain.data.records import Records, holdout, load_records
from quatrain.data.spool import Spool, temporary_spool
from quatrain.text.conversation import Conversation, Document, Message


def conversation(number: int, content: str = "Là.") -> Conversation:
    messages = (
        Message("system", ""),
        Message("user", f"Où est {number} ?\u2028\0\ud83d"),
        Message("assistant", content),
    )
    fields = {"level": number, "half": 0.1, "deep": {"a": [None, True, 2**80, "é"]}, "none": None}
    return Conversation(messages, (content, "Ici."), f"g{number % 7}", f"f:{number}", fields)


RECORDS = [conversation(number) for number in range(100)]


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool[Conversation]]:
    with temporary_spool(tmp_path) as spool:
        yield spool


def test_records_come_back_as_they_were(spool: Spool[Conversation]) -> None:
    for record in RECORDS:
        spool.append(record)
    assert list(spool) == RECORDS
    assert (len(spool), spool[0], spool[-1]) == (100, RECORDS[0], RECORDS[-1])
    assert spool[3:90:7] == RECORDS[3:90:7]
    with pytest.raises(IndexError):
        spool[100]


def test_documents_come_back_as_they_were(tmp_path: Path) -> None:
    documents = [Document("Il pleut.\r\n" * number, f"g{number}", "a.txt:1") for number in range(9)]
    with temporary_spool(tmp_path) as spool:
        for document in documents:
            spool.append(document)
        assert list(spool) == documents


def test_what_is_read_meanwhile_changes_nothing(spool: Spool[Conversation]) -> None:
    long = "très " * 20_000  # so that some are in the file and some still wait
    records = [conversation(number, long) for number in range(8)]
    for number, record in enumerate(records):
        spool.append(record)
        assert spool[number // 2] == records[number // 2]
    assert all(one == other for one, other in zip(spool, spool, strict=True))
    assert list(spool) == records


def test_marked_records_are_a_list_of_their_own(spool: Spool[Conversation]) -> None:
    for record in RECORDS:
        spool.append(record)
    chosen = spool.where([number % 3 == 0 for number in range(100)])
    assert list(chosen) == RECORDS[::3]
    assert list(chosen.where([False] * 33 + [True])) == [RECORDS[99]]
    assert list(spool) == RECORDS


def test_a_holdout_is_the_same_from_a_file_and_from_memory(spool: Spool[Conversation]) -> None:
    documents = [Document("x", f"g{number}", f"d:{number}") for number in range(20)]
    for record in RECORDS:
        spool.append(record)
    in_file, in_memory = Records(spool, documents), Records(RECORDS, documents)
    for filed, held in zip(holdout(in_file, 0.3, 0), holdout(in_memory, 0.3, 0), strict=True):
        assert list(filed) == list(held)
        assert len(held.conversations) > 0
        assert len(held.documents) > 0


def test_records_are_loaded_into_what_is_given(tmp_path: Path, spool: Spool[Conversation]) -> None:
    path = tmp_path / "q.csv"
    path.write_text("question,answer,level\n" + "Où ?,Là.,1\n" * 5, encoding="utf-8")
    records = load_records([str(path)], DataConfig(), records=Records(spool))
    assert records.conversations is spool
    assert list(records) == list(load_records([str(path)], DataConfig()))


def test_memory_holds_little_of_a_record(tmp_path: Path) -> None:
    with temporary_spool(tmp_path) as spool:
        tracemalloc.start()
        for _ in range(20_000):
            spool.append(RECORDS[0])
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert held < 20_000 * 40 + 2 * (1 << 18)  # numbers, and twice a buffer with its objects


def test_the_file_goes_however_it_ends(tmp_path: Path) -> None:
    def fail() -> None:
        with temporary_spool(tmp_path) as spool:
            spool.append(RECORDS[0])
            assert spool[0] == RECORDS[0]
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert list(tmp_path.iterdir()) == []
