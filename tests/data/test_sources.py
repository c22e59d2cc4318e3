"""Sources: a missing path is reported at once, and the Hub is not asked for it."""

from __future__ import annotations

import pytest

from quatrain.config import DataConfig
from quatrain.data.records import load_records
from quatrain.errors import DataError


@pytest.mark.parametrize(
    "name",
    ["q.docx", "org/q.pdf", "a b", "./questions", "/questions", "../q", "q.jsonlines", "q.csv.gz",
     "~/questions", "a/b/c", "questions/", "été", "~nobody-of-this-name/q"],
)  # fmt: skip
def test_the_hub_is_never_asked_for_what_is_evidently_a_path(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quatrain.data.read.hub_rows", lambda *_: pytest.fail("the Hub was asked"))
    for sources in ([name], ["org/name", name]):
        with pytest.raises(DataError, match=r"Q320(?s:.*)no such file or folder"):
            load_records(sources, DataConfig())


def test_a_missing_name_with_a_comma_says_how_it_was_split() -> None:
    data = DataConfig.model_validate({"train": "c, d.jsonl"})
    with pytest.raises(DataError, match=r"folder: d\.jsonl\. Commas separate .*: 'c', 'd\.jsonl'"):
        load_records(data.train, data)
