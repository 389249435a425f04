"""The data card says what it is told and leaves out what it is not."""

from capfilt.schema import DATASET
from capfilt.writers.card import COLUMN_MEANING, data_card


def test_a_card_without_facts_still_has_its_columns() -> None:
    card = data_card({}, {}, DATASET, rows=0, texts=0, formats=["parquet"], shards=0)
    assert "How it was made" not in card
    assert "Funnel" not in card
    assert "None" not in card
    assert all(f"`{name}`" in card for name in DATASET.names)


def test_every_column_has_a_meaning() -> None:
    assert set(DATASET.names) <= set(COLUMN_MEANING)


def test_names_cannot_break_the_front_matter_or_a_table() -> None:
    card = data_card({"name": 'a "b"', "filter": "x|y\nz"}, {}, DATASET, rows=1, texts=1, formats=["webdataset"], shards=1)
    assert 'pretty_name: "a \\"b\\""' in card
    assert "| filter | x\\|y z |" in card


def test_the_threshold_is_of_the_score_that_decided() -> None:
    def card(score: str, threshold: float) -> str:
        counted = {"rows": 1, "healthy_rows": 1, "duplicates": 0, "contaminated": 0, "texts": {}}
        summary = {**counted, "score": score, "threshold": threshold}
        return data_card({}, summary, DATASET, rows=1, texts=1, formats=["parquet"], shards=1)

    assert "| a text is believed at ITM >= | 0.5 |" in card("itm", 0.5)
    assert "| a text is believed at cosine >= | 0.25 |" in card("itc", 0.25)


def test_what_captioner_and_filter_have_in_common_is_said() -> None:
    def card(trunk: str | None, weights: str | None) -> str:
        return data_card({"trunk": trunk, "weights": weights}, {}, DATASET, rows=1, texts=1, formats=["parquet"], shards=1)

    assert "captioner and filter" not in card(None, None) + card("separate", "separate")
    assert "separate fine-tunes on one image encoder" in card("shared", "separate")
    assert "THE SAME WEIGHTS" in card("shared", "shared")
