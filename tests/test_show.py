"""What the commands print, from small facts."""

import pytest

from capfilt.run.bill import Bill, Cost
from capfilt.show import show_bill, show_journey, show_summary


def test_a_summary_tells_what_was_kept_and_why_the_rest_was_not(capsys: pytest.CaptureFixture[str]) -> None:
    web = {"count": 4, "scored": 3, "kept": 1, "reasons": {"kept": 1, "below_threshold": 2, "rule": 1}}
    summary = {"rows": 5, "kept_rows": 1, "kept_texts": 1, "texts": {"web": web}, "noise_ratio": {"web": 2 / 3}}
    show_summary("strict", summary)
    told = capsys.readouterr().out
    assert "view strict: 1 of 5 rows and 1 texts kept" in told
    assert "below_threshold 2, rule 1" in told
    assert "66.7%" in told


CAPTION = {
    "text": "a [red] square",
    "origin": "synthetic",
    "rule": None,
    "error": None,
    "captioner": None,
    "scores": [{"filter": "med", "itm": 0.91, "itc": None}],
}
ROW = {"row_id": "c-000001", "uid": "f" * 32, "url": "http://a.test/1.jpg", "error": None, "status": "ok"}


def test_a_journey_tells_scores_fate_and_place(capsys: pytest.CaptureFixture[str]) -> None:
    story = {
        "round": 1,
        "status": "ok",
        "error": None,
        "captions": [{**CAPTION, "kept": True, "reason": "kept"}],
        "group": "c-000001",
        "group_members": ["c-000001", "c-000002"],
        "neighbours": [{"row_id": "c-000002", "cosine": 0.99, "kind": "cosine"}],
        "survivor": True,
        "contaminated_by": None,
        "judged": {"policy": "both", "score": "itc", "threshold": 0.4175},
        "dataset": {"shard": "00000", "key": "000000007", "files": ["parquet/00000.parquet"]},
    }
    show_journey({**ROW, "rounds": [story]})
    told = capsys.readouterr().out
    assert "a [red] square" in told
    assert "0.910" in told
    assert "policy both: ITC of 0.4175 or more passes" in told
    assert "duplicate: survives in a group of 2" in told
    assert "written: key 000000007 in parquet/00000.parquet" in told


def test_a_strangers_text_gives_the_terminal_no_orders(capsys: pytest.CaptureFixture[str]) -> None:
    text = {**CAPTION, "text": "a \x1b[2J\x1b]52;c;cm0=\x07dog :dog: caf\xe9"}
    show_journey(
        {**ROW, "url": "http://a.test/\x1bc", "rounds": [{"round": 1, "status": "ok", "error": None, "captions": [text]}]}
    )
    told = capsys.readouterr().out
    assert "\x1b" not in told
    assert "\x07" not in told
    assert "dog :dog: caf\xe9" in told


def test_a_row_that_failed_is_told_with_its_code(capsys: pytest.CaptureFixture[str]) -> None:
    show_journey({**ROW, "status": "download_failed", "error": "http_404", "rounds": []})
    told = capsys.readouterr().out
    assert "http_404" in told
    assert "no round has worked on it" in told


def test_a_round_that_has_not_decided_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    show_journey({**ROW, "rounds": [{"round": 1, "status": "ok", "error": None, "captions": [CAPTION]}]})
    told = capsys.readouterr().out
    assert "not decided" in told
    assert "no selection yet" in told


def test_a_bill_tells_time_disk_yield_and_the_bottleneck(capsys: pytest.CaptureFixture[str]) -> None:
    costs = (Cost("pool", 250.0, 4.0, None, 40_000_000_000), Cost("candidates", 900.0, 1.0, 4.0, 0))
    show_bill(Bill("runs/x-limit-2048", 2048, 3_600_000, costs, (0.31, 0.29, 0.33)), "capfilt run x --limit 2048")
    told = capsys.readouterr().out
    assert "estimate for 3,600,000 rows, from the 2,048 of runs/x-limit-2048" in told
    assert "40.00 GB" in told
    assert "60.0 min" in told
    assert "kept: 31.0% of the rows (29.0% to 33.0% by chance alone), so 1,044,000 to 1,188,000 rows" in told
    assert "bottleneck: pool" in told
