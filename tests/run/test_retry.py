"""`capfilt retry` where the web has changed its mind: which rows and chunks change, what is made anew, what continues."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from capfilt.config.load import load_pipeline
from capfilt.errors import ConfigError, FailureBudgetError, Interrupted, LeaseError, RunStateError
from capfilt.plan import Chunk
from capfilt.rounds import run_pipeline
from capfilt.run import files
from capfilt.run.again import Again, again_of, with_new_answers
from capfilt.run.build import Job
from capfilt.run.commit import read_footer
from capfilt.run.lease import Lease
from capfilt.run.local_executor import LocalExecutor
from capfilt.run.progress import SilentProgress
from capfilt.run.retry import retry_rows
from capfilt.run.work import Outcome

from .conftest import FOUND, TIMEOUT, Web, pool_table


def results(folder: Path) -> dict[str, bytes]:
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths if "events" not in path.parts}


# ── rows ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_only_rows_with_that_status_and_error_are_asked_for_and_only_their_chunks_change(live: Web) -> None:
    live.run()
    before, rows = results(live.run_folder), live.rows()
    live.answers = {1: FOUND, 5: TIMEOUT}
    told = live.retry("timeout")
    assert sorted(live.asked) == [1, 5]
    after = results(live.run_folder)
    changed = sorted(name for name in before if after[name] != before[name])
    assert changed == [f"pool/chunk-{rows[1]['row_id'][:16]}.parquet"]
    assert [row["url"] for row, old in zip(live.rows(), rows, strict=True) if row != old] == ["http://x/1"]
    assert live.rows()[1]["status"] == "ok"
    assert live.rows()[1]["captions"][0]["text"] == "text http://x/1"
    assert str(told).splitlines()[0].endswith("2 row(s) in 2 chunk(s) tried again; new answers: 1 ok")
    assert "capfilt run " in str(told)


def test_more_download_actors_than_connections_to_a_host_are_refused(live: Web) -> None:
    live.run()
    with pytest.raises(ConfigError, match=r"at most download.per_host, 8"):
        live.retry(None, "resources.executor=ray", "resources.download={actors: 9}")
    assert live.asked == []


def test_the_next_run_captions_the_changed_chunk_alone_and_ends_as_if_the_web_had_always_been_so(live: Web) -> None:
    live.run()
    live.answers[1] = FOUND
    live.retry()
    assert sorted(live.asked) == [1, 2, 5]
    result = live.run()
    assert live.asked == []
    assert sorted(live.captioned) == [0, 1, 3]
    assert result.counts == {"ok": 9, "download_failed": 2, "opted_out": 1}
    retried = results(live.run_folder)
    live.run(fresh=True)
    calm = results(live.run_folder)
    assert retried == calm
    assert json.loads(calm["round-1/dataset/manifest.json"])["rows"] == 9


def test_an_answer_that_says_less_changes_nothing(live: Web) -> None:
    live.run()
    before = results(live.run_folder)
    live.answers.update({1: ("download_failed", "dns_failed"), 6: TIMEOUT})
    assert "nothing has changed" in str(live.retry())
    retry_rows(live.settings(), Again("opted_out"), progress=SilentProgress())
    assert results(live.run_folder) == before


def test_an_answer_other_than_a_picture_counts_too(live: Web) -> None:
    live.run()
    live.answers[1] = ("opted_out", "robots_txt:disallow")
    assert live.retry().counts == {"opted_out": 1}
    assert [live.rows()[1][name] for name in ("status", "error")] == ["opted_out", "robots_txt:disallow"]


RUN = LocalExecutor.run


def stops_behind_one_chunk(self: LocalExecutor, job: Job, chunks: Sequence[Chunk]) -> Iterator[Outcome]:
    yield from RUN(self, job, chunks[:1])
    raise KeyboardInterrupt


def test_an_interrupted_retry_goes_on_behind_the_chunks_that_were_through(live: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    live.run()
    live.answers = {2: ("download_failed", "http_404"), 6: ("opted_out", "robots_txt:disallow")}
    with monkeypatch.context() as patch:
        patch.setattr(LocalExecutor, "run", stops_behind_one_chunk)
        with pytest.raises(Interrupted, match="The same command goes on"):
            live.retry()
    assert sorted(live.asked) == [1, 2]
    live.retry()
    assert live.asked == [5], "row 2, which failed again, is not asked for twice"
    assert [row["url"] for row in live.rows() if row["status"] == "download_failed"] == ["http://x/2"]
    assert not (live.run_folder / "steps" / "retry.json").exists()
    live.retry()
    assert live.asked == [2], "a retry that ended begins anew"


@pytest.fixture
def half_a_retry(live: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """A retry that won row 1 and was stopped before row 5."""
    live.run()
    live.answers = {2: ("download_failed", "http_404"), 5: TIMEOUT, 6: ("opted_out", "robots_txt:disallow")}
    with monkeypatch.context() as patch:
        patch.setattr(LocalExecutor, "run", stops_behind_one_chunk)
        with pytest.raises(Interrupted):
            live.retry()


def test_a_retry_that_goes_on_tells_of_what_changed_before_it_was_stopped(live: Web, half_a_retry: None) -> None:
    told = live.retry()
    assert live.asked == [5]
    assert told.changed == {"pool": [live.rows()[1]["row_id"][:16]]}
    assert "1 chunk file(s) are new" in str(told)
    assert "nothing has changed" in str(live.retry()), "that one began anew"


def test_a_pool_that_was_made_anew_is_retried_from_its_beginning(live: Web, half_a_retry: None) -> None:
    live.answers[1] = TIMEOUT
    live.run(start_from="read")
    live.retry()
    assert sorted(live.asked) == [1, 2, 5]


def test_a_chunk_that_fails_as_a_whole_stays_as_it_was_and_the_same_command_tries_just_it(live: Web) -> None:
    live.run()
    before = results(live.run_folder)
    live.answers, live.fails_at = {}, 5
    with pytest.raises(FailureBudgetError, match=r"1 of 2 that failed as a whole.*RuntimeError: the downloader is broken"):
        live.retry()
    kept = [name for name, data in results(live.run_folder).items() if name.startswith("pool/") and before[name] == data]
    assert len(kept) == 2
    live.fails_at = -1
    live.retry()
    assert live.asked == [5]


def test_operational_settings_may_change_and_others_are_refused(live: Web) -> None:
    live.run()
    live.retry(None, "download.deadline_s=1")
    with pytest.raises(RunStateError, match=r"select.min_itm: 0 -> 0.5|select.min_itm: 0.0 -> 0.5"):
        live.retry(None, "select.min_itm=0.5")
    with Lease(str(live.run_folder)), pytest.raises(LeaseError):
        live.retry()


def test_a_run_that_was_moved_can_be_retried_and_run(live: Web) -> None:
    live.run()
    live.answers[1] = FOUND
    moved = live.folder / "moved"
    live.run_folder.rename(moved)
    settings = load_pipeline(moved / "config.yaml", [f"output={moved}"])
    told = retry_rows(settings, Again("download_failed"), progress=SilentProgress())
    assert told.counts == {"ok": 1}
    assert told.next_command == f"capfilt run {moved}/config.yaml --set output={moved}"
    live.captioned.clear()
    run_pipeline(load_pipeline(moved / "config.yaml", [f"output={moved}"]), progress=SilentProgress())
    assert not live.run_folder.exists()
    assert sorted(live.captioned) == [0, 1, 3]


def test_a_status_that_no_download_changes_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"--status: expected .*download_failed.*found 'rule_rejected'"):
        again_of("rule_rejected", None)
    assert again_of("image_invalid", "decode") == Again("image_invalid", "decode")


@pytest.mark.parametrize(
    ("error", "wanted"),
    [(None, [0, 1, 2, 3]), ("http_5*", [1, 2]), ("http_50", []), ("internal_error", [3]), ("timeout", [0])],
)
def test_an_error_is_a_code_or_the_beginning_of_one_before_the_colon_or_a_pattern(error: str | None, wanted: list[int]) -> None:
    errors = ["timeout", "http_500", "http_503", "internal_error:ValueError", None]
    table = pa.table({"status": ["download_failed"] * 4 + ["ok"], "error": errors})
    assert [row for row, is_it in enumerate(Again("download_failed", error).wants(table)) if is_it] == wanted


def test_rows_take_their_new_place_and_the_others_keep_theirs() -> None:
    table = pool_table("c", [1, None, 3, None])

    def stages(read: pa.Table) -> pa.Table:
        assert read["row_id"].to_pylist() == ["c-000001", "c-000003"]
        return pool_table("c", [None, None, None, 9]).filter(pa.array([False, True, False, True]))

    changed = with_new_answers(table, Again("download_failed"), table, stages)
    assert changed is not None
    assert changed.slice(0, 3).equals(table.slice(0, 3))
    assert changed["status"].to_pylist() == ["ok", "download_failed", "ok", "ok"]


# ── quarantined chunks ──────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def breaks(monkeypatch: pytest.MonkeyPatch, live: Web) -> Callable[[Sequence[int]], None]:
    """The captioner cannot stand these pictures."""
    import capfilt_fakes

    shades: set[int] = set()
    caption = capfilt_fakes.Captioner.caption

    def picky(self: Any, images: Any, *, seeds: Any) -> Any:
        if shades & {round(capfilt_fakes.shade(image) / 10) for image in images}:
            raise RuntimeError("cannot look at it")
        return caption(self, images, seeds=seeds)

    monkeypatch.setattr(capfilt_fakes.Captioner, "caption", picky)

    def set_to(numbers: Sequence[int]) -> None:
        shades.clear()
        shades.update(numbers)

    return set_to


def test_over_budget_the_message_names_the_command_that_retries_just_those_chunks(
    live: Web, breaks: Callable[[Sequence[int]], None]
) -> None:
    breaks([4])
    with pytest.raises(FailureBudgetError) as ended:
        live.run()
    text = str(ended.value)
    assert f"retry just what failed: capfilt retry {live.run_folder} --quarantined && capfilt run tiny.yaml" in text
    (line,) = files.lines(str(live.run_folder), "quarantine")
    assert line["at"] == f"row {live.rows()[4]['row_id']}", "the row is found among those that were at work"
    breaks([])
    told = live.retry_quarantined()
    assert sorted(live.captioned) == [4, 7]
    assert told.changed == {"round-1/candidates": [line["chunk_id"]]}
    assert "1 chunk file(s) are new" in str(told)
    live.run()
    assert sorted({*live.captioned}) == [8, 9, 10, 11], "the run goes on with what was never tried"
    retried = results(live.run_folder)
    live.run(fresh=True)
    assert results(live.run_folder) == retried


def test_chunks_left_out_within_the_budget_come_back_and_what_follows_is_made_anew(
    live: Web, breaks: Callable[[Sequence[int]], None]
) -> None:
    lenient = "resources.max_failure_rate.caption=0.9"
    breaks([0, 8])
    assert live.run(lenient).left_out == 2
    rows = json.loads((live.run_folder / "round-1/dataset/manifest.json").read_text())["rows"]
    breaks([8])
    told = live.retry_quarantined()
    assert len(told.changed["round-1/candidates"]) == 1
    assert len(told.still["round-1/candidates"]) == 1
    assert "still quarantined" in str(told)
    assert live.run(lenient).left_out == 1
    assert live.captioned == []
    assert json.loads((live.run_folder / "round-1/dataset/manifest.json").read_text())["rows"] > rows
    breaks([])
    live.retry_quarantined()
    assert live.run(lenient).left_out == 0
    retried = results(live.run_folder)
    live.run(lenient, fresh=True)
    assert results(live.run_folder) == retried


def test_chunks_of_the_pool_come_back_too(live: Web) -> None:
    live.fails_at = 5
    with pytest.raises(FailureBudgetError, match="--quarantined"):
        live.run()
    live.fails_at = -1
    assert len(live.retry_quarantined().changed["pool"]) == 1
    assert sorted(live.asked) == [4, 5, 6, 7]
    live.run()
    retried = results(live.run_folder)
    live.run(fresh=True)
    assert results(live.run_folder) == retried


def test_a_retry_of_chunks_that_goes_on_tells_of_those_that_came_back_before_it_was_stopped(
    live: Web, breaks: Callable[[Sequence[int]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    breaks([0, 8])
    live.run("resources.max_failure_rate.caption=0.9")
    breaks([8])
    run_chunks = LocalExecutor.run

    def stops(self: LocalExecutor, job: Job, chunks: Sequence[Chunk]) -> Iterator[Outcome]:
        yield next(outcome for outcome in run_chunks(self, job, chunks) if outcome.error is None)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(LocalExecutor, "run", stops)
        with pytest.raises(Interrupted):
            live.retry_quarantined()
    told = live.retry_quarantined()
    assert told.changed == {"round-1/candidates": [live.rows()[0]["row_id"][:16]]}
    assert len(told.still["round-1/candidates"]) == 1
    assert "1 chunk file(s) are new" in str(told)
    assert "nothing has changed" in str(live.retry_quarantined()), "that one began anew"
    assert not (live.run_folder / "steps" / "retry-quarantined.json").exists()


def test_nothing_quarantined_is_told(live: Web) -> None:
    live.run()
    assert "nothing has changed" in str(live.retry_quarantined())


# ── out-of-date candidates ──────────────────────────────────────────────────────────────────────────────────


def test_candidates_say_which_pool_chunk_they_were_made_from(live: Web) -> None:
    live.run()
    for path in live.pool:
        mine, theirs = read_footer(str(path)), read_footer(str(live.run_folder / "round-1" / "candidates" / path.name))
        assert mine is not None
        assert theirs is not None
        assert (theirs.made_from, len(mine.sha256)) == (mine.sha256, 64)
    assert Job("pool", live.settings(), "f").again is None
