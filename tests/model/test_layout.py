"""Layout: positions, runs and padding from document lengths."""

from __future__ import annotations

import pytest
import torch

from quatrain.model.layout import Layout, Runs, Segments

CPU = torch.device("cpu")


def layout(length: int, segments: Segments | None, chunk: int | None = None) -> Layout:
    rows = 1 if segments is None else len(segments)
    return Layout.of((rows, length), segments, chunk, CPU)


def runs(*lengths: list[int]) -> Runs:
    return Runs(list(lengths), CPU)


def test_the_example_of_the_docstring_holds() -> None:
    found = layout(9, [[5, 2]], chunk=4)
    assert found.documents is not None
    assert found.chunks is not None
    assert found.positions.tolist() == [[0, 1, 2, 3, 4, 0, 1, 0, 1]]
    assert found.documents.lengths == [[5, 2, 2]]
    assert found.chunks.lengths == [[4, 1, 2, 2]]


def test_what_documents_leave_of_a_row_is_padding() -> None:
    found = layout(4, [[3], [4], [1, 1]])
    assert found.real is not None
    assert found.real.tolist() == [
        [True, True, True, False],
        [True, True, True, True],
        [True, True, False, False],
    ]


def test_rows_without_padding_have_no_mask_of_it() -> None:
    assert layout(4, [[4], [1, 3]]).real is None


def test_without_segments_a_row_is_one_document() -> None:
    found = layout(3, None)
    assert found.documents is not None
    assert found.documents.one_per_row
    assert found.positions.tolist() == [[0, 1, 2]]


def test_a_row_of_padding_alone_is_allowed() -> None:
    found = layout(2, [[], [2]])
    assert found.real is not None
    assert found.real.tolist() == [[False, False], [True, True]]


def test_a_document_is_cut_at_multiples_of_the_chunk_from_its_start() -> None:
    assert runs([3, 9, 4], [16]).split(4).lengths == [[3, 4, 4, 1, 4], [4, 4, 4, 4]]


def test_a_chunk_that_holds_the_row_cuts_nothing() -> None:
    found = layout(8, [[5, 3]], chunk=8)
    assert found.chunks is found.documents


def test_each_token_knows_where_its_run_begins() -> None:
    assert runs([2, 1, 2], [3, 2]).starts.tolist() == [[0, 0, 2, 3, 3], [0, 0, 0, 3, 3]]


def test_bounds_count_through_the_flattened_batch() -> None:
    cumulative = runs([2, 1], [3]).cumulative
    assert cumulative.tolist() == [0, 2, 3, 6]
    assert cumulative.dtype == torch.int32


@pytest.mark.parametrize(
    ("segments", "message"),
    [
        ([[4]], "segments describe 1 rows, ids have 2"),
        ([[4], [3, 2]], "segments of row 1 must be positive and sum to at most 4"),
        ([[4, 0], [4]], "segments of row 0 must be positive"),
        ([[4], [5, -1]], "segments of row 1 must be positive"),
    ],
)
def test_segments_that_do_not_fit_are_refused(segments: Segments, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Layout.of((2, 4), segments, None, CPU)
