from collections import Counter
from pathlib import Path

import pytest

from capfilt.config.select import SelectConfig
from capfilt.report.choice import KINDS, Choice, column_where, pictures
from capfilt.report.facts import gather
from capfilt.report.scan import scan


def chosen(folder: Path, cards: int) -> Choice:
    one = gather(folder).scored_round
    assert one is not None
    return scan(one.candidates, one.selection, is_candidates=True, policy=SelectConfig(), cards=cards).choice


@pytest.mark.parametrize("cards", [1, 5, 40, 1000])
def test_never_more_cards_than_asked_for_and_as_many_as_there_are(finished_run: Path, cards: int) -> None:
    found = chosen(finished_run, cards).cards()
    assert len(found) == len({card.row_id for card in found})
    assert len(found) == cards or (cards == 1000 and 100 < len(found) < 240)


def test_every_fate_is_shown_with_the_rescued_first(finished_run: Path) -> None:
    found = chosen(finished_run, 40).cards()
    kinds = Counter(card.kind for card in found)
    assert {"rescued", "both", "web_only", "neither", "duplicate", "contaminated", "rule"} <= set(kinds)
    order = [list(KINDS).index(card.kind) for card in found]
    assert order == sorted(order)
    assert kinds["rescued"] == max(kinds.values())


def test_a_card_says_what_its_kind_promises(finished_run: Path) -> None:
    for card in chosen(finished_run, 200).cards():
        fates = {(caption["origin"], reason) for caption, reason in zip(card.captions, card.reasons or (), strict=True)}
        if card.kind == "rescued":
            assert ("synthetic", "kept") in fates
            assert ("web", "kept") not in fates
        if card.kind == "neither":
            assert "kept" not in {reason for _, reason in fates}
        if card.kind == "contaminated":
            assert card.contaminated_by


def test_pictures_come_from_the_pool_by_row_id(finished_run: Path) -> None:
    cards = [card for card in chosen(finished_run, 20).cards() if card.status == "ok"]
    found = pictures(str(finished_run / "pool"), [card.row_id for card in cards])
    assert set(found) == {card.row_id for card in cards}
    assert all(data.startswith(b"\xff\xd8") for data in found.values())
    assert pictures(str(finished_run / "pool"), ["no-such-chunk-000001"]) == {}


def test_a_column_that_is_not_there_gives_nothing(finished_run: Path) -> None:
    path = finished_run / "miniweb" / "truth.parquet"
    assert column_where(path, "url", ["http://a.miniweb.test/00000.jpg"], "no_such_column") == {}
