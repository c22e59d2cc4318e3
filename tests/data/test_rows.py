"""Rows on disk: what is written is read, and damage is named."""

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quatrain.data.rows import Block, Rows, write_rows
from quatrain.errors import DataError
from quatrain.files import damage

RECORDS = [
    ([1, 11, 12, 13, 14], [False, False, True, True, True]),
    ([1, 21, 22], [False, True, True]),
    ([1, 31], [False, True]),
]


def written(directory: Path, packing: str = "best_fit") -> Rows:
    return write_rows(
        directory / "rows",
        (Block.of(*record) for record in RECORDS),
        block_size=8,
        packing=packing,  # type: ignore[arg-type]
        pad_id=9,
        manifest={"key": "k"},
        texts={"questions.jsonl": "é\n"},
    )


def test_a_packed_row_holds_its_records_then_padding(tmp_path: Path) -> None:
    rows = written(tmp_path)
    assert len(rows) == 2
    assert rows[0].ids.tolist() == [1, 11, 12, 13, 14, 1, 21, 22]
    assert rows[0].mask.astype(int).tolist() == [0, 0, 1, 1, 1, 0, 1, 1]
    assert rows[0].segments == [5, 3]
    assert rows[1].ids.tolist() == [1, 31, 9, 9, 9, 9, 9, 9]
    assert rows[1].segments == [2]
    assert (rows[1].num_used, rows[1].mask.sum()) == (2, 1)


def test_padded_rows_hold_one_record_each(tmp_path: Path) -> None:
    rows = written(tmp_path, "padded")
    assert [row.segments for row in rows] == [[5], [3], [2]]


def test_the_counts_are_those_of_the_records(tmp_path: Path) -> None:
    rows = written(tmp_path)
    assert (rows.num_tokens, rows.num_targets, rows.manifest["documents"]) == (10, 6, 3)
    assert (rows.block_size, rows.pad_id, rows.manifest["key"]) == (8, 9, "k")


def test_ids_and_masks_have_the_promised_types(tmp_path: Path) -> None:
    row = written(tmp_path)[-1]
    assert row.ids.dtype == np.int32
    assert row.mask.dtype == np.bool_


def test_an_index_beyond_the_rows_is_an_index_error(tmp_path: Path) -> None:
    with pytest.raises(IndexError, match="row 2 of 2"):
        written(tmp_path)[2]


def test_only_named_files_are_left(tmp_path: Path) -> None:
    written(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["rows"]
    assert sorted(path.name for path in (tmp_path / "rows").iterdir()) == [
        "documents.bin",
        "ids.bin",
        "manifest.json",
        "mask.bin",
        "offsets.bin",
        "questions.jsonl",
    ]


def test_no_file_is_removed_while_it_is_mapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Windows refuses to remove a file that is mapped
    removed, unlink = [], Path.unlink

    def checked(path: Path, **options: Any) -> None:
        maps = [one for one in gc.get_objects() if type(one) is np.memmap]
        assert path.resolve() not in [one.filename for one in maps]
        removed.append(path.name)
        unlink(path, **options)

    monkeypatch.setattr(Path, "unlink", checked)
    written(tmp_path)
    assert {"spool-ids", "spool-mask"} <= set(removed)


def test_the_same_records_give_the_same_bytes(tmp_path: Path) -> None:
    written(tmp_path / "a")
    written(tmp_path / "b")
    for path in (tmp_path / "a" / "rows").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / "rows" / path.name).read_bytes()


def test_a_failure_while_encoding_keeps_the_old_rows_and_leaves_nothing(tmp_path: Path) -> None:
    written(tmp_path)

    def broken() -> Iterator[Block]:
        yield Block.of(*RECORDS[0])
        raise DataError("Q310.grown")

    with pytest.raises(DataError, match="the data grew"):
        write_rows(tmp_path / "rows", broken(), block_size=8, packing="best_fit", pad_id=9)
    assert [path.name for path in tmp_path.iterdir()] == ["rows"]
    assert len(Rows(tmp_path / "rows")) == 2


@pytest.mark.parametrize("name", ["ids.bin", "mask.bin", "offsets.bin", "documents.bin"])
def test_a_flipped_bit_is_found_and_its_file_named(tmp_path: Path, name: str) -> None:
    written(tmp_path)
    path = tmp_path / "rows" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert damage(tmp_path / "rows") == f"{name}: its SHA-256 is not the one in the manifest"


def test_a_cut_file_is_found_on_opening(tmp_path: Path) -> None:
    written(tmp_path)
    path = tmp_path / "rows" / "ids.bin"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(DataError, match=r"damaged.*ids\.bin has 60 bytes, but 64") as caught:
        Rows(tmp_path / "rows")
    assert caught.value.code == "Q305"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    written(tmp_path)
    (tmp_path / "rows" / "mask.bin").unlink()
    with pytest.raises(DataError, match=r"mask\.bin is missing"):
        Rows(tmp_path / "rows")


def test_files_swapped_between_two_directories_are_found(tmp_path: Path) -> None:
    written(tmp_path / "a")
    write_rows(
        tmp_path / "b" / "rows",
        [Block.of(ids[::-1][-1:] + ids[1:][::-1], mask) for ids, mask in RECORDS],
        block_size=8,
        packing="best_fit",
        pad_id=9,
    )
    (tmp_path / "b" / "rows" / "ids.bin").replace(tmp_path / "a" / "rows" / "ids.bin")
    assert str(damage(tmp_path / "a" / "rows")).startswith("ids.bin: its SHA-256 is not")


def test_a_missing_manifest_and_another_schema_are_refused(tmp_path: Path) -> None:
    written(tmp_path)
    manifest = tmp_path / "rows" / "manifest.json"
    text = manifest.read_text(encoding="utf-8")
    manifest.write_text(text.replace('"schema": 1', '"schema": 7'), encoding="utf-8")
    with pytest.raises(DataError, match=r"have schema 7. This version reads schema 1"):
        Rows(tmp_path / "rows")
    manifest.unlink()
    with pytest.raises(DataError, match=r"manifest\.json is missing"):
        Rows(tmp_path / "rows")


def test_no_records_give_no_rows(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows", [], block_size=8, packing="best_fit", pad_id=0)
    assert len(rows) == 0
    assert list(rows) == []


def test_a_block_of_many_records_gives_the_rows_of_one_block_each(tmp_path: Path) -> None:
    joined = Block(
        np.concatenate([ids for ids, _ in RECORDS]).astype(np.int32),
        np.concatenate([mask for _, mask in RECORDS]),
        np.array([len(ids) for ids, _ in RECORDS]),
    )
    alone = written(tmp_path / "a")
    at_once = write_rows(
        tmp_path / "b", [joined], block_size=8, packing="best_fit", pad_id=9, manifest={"key": "k"}
    )
    for name in ("ids.bin", "mask.bin", "documents.bin", "offsets.bin"):
        assert (at_once.directory / name).read_bytes() == (alone.directory / name).read_bytes()


def test_more_rows_than_are_written_at_once_keep_their_records(tmp_path: Path) -> None:
    records = [([r, *[r] * (r % 7)], [False, *[True] * (r % 7)]) for r in range(3000)]
    rows = write_rows(
        tmp_path / "rows",
        (Block.of(*record) for record in records),
        block_size=8,
        packing="best_fit",
        pad_id=9999,
    )
    found = [
        (ids.tolist(), mask.tolist())
        for row in rows
        for ids, mask in zip(
            np.split(row.ids[: row.num_used], np.cumsum(row.segments)[:-1]),
            np.split(row.mask[: row.num_used], np.cumsum(row.segments)[:-1]),
            strict=True,
        )
    ]
    assert len(rows) > 1000
    assert sorted(found) == sorted(records)
    assert all((row.ids[row.num_used :] == 9999).all() for row in rows)
