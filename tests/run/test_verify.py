"""`capfilt verify`: a run as it was made passes; each way a file can differ is found, named and given its remedy."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from capfilt.config.load import load_pipeline, output_setting
from capfilt.errors import LeaseError, RunStateError
from capfilt.rounds import run_pipeline
from capfilt.run import files
from capfilt.run.commit import FOOTER_KEY, Footer, commit, read_footer
from capfilt.run.lease import Lease
from capfilt.run.progress import SilentProgress
from capfilt.run.rederive import sample
from capfilt.run.verify import Verified, verify
from capfilt.run.verify_files import Difference

from .conftest import FOUND, Web

Change = Callable[[Web], str]


def look(live: Web, rows: int = 16, seed: int = 0) -> Verified:
    return verify(live.settings(), rows=rows, seed=seed, progress=SilentProgress())


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(bytes(data))


def candidates(live: Web) -> list[Path]:
    return sorted((live.run_folder / "round-1" / "candidates").glob("chunk-*.parquet"))


def footer_of(path: Path) -> Footer:
    footer = read_footer(str(path))
    assert footer is not None
    return footer


def tree_of(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_run_as_it_was_made_has_no_difference_and_stays_as_it_is(live: Web) -> None:
    live.run()
    before = tree_of(live.run_folder)
    found = look(live)
    assert (found.differences, found.notes) == ([], [])
    assert found.rows == 8, "all there are"
    assert found.files == 3 + 3 + 2 + 1 + 2 + 1, "pool, candidates, selection, manifest, card and schema, one shard"
    assert tree_of(live.run_folder) == before


# ── what can happen to a file ───────────────────────────────────────────────────────────────────────────────


def flipped_shard(live: Web) -> str:
    flip(live.run_folder / "round-1/dataset/parquet/00000.parquet", 500)
    return "round-1/dataset/parquet/00000.parquet"


def truncated_pool_chunk(live: Web) -> str:
    live.pool[1].write_bytes(live.pool[1].read_bytes()[:-100])
    return f"pool/{live.pool[1].name}"


def flipped_pool_picture(live: Web) -> str:
    flip(live.pool[0], 200)
    return f"pool/{live.pool[0].name}"


def flipped_digit_of_the_seal(live: Web) -> str:
    data = live.pool[2].read_bytes()
    seal = footer_of(live.pool[2]).sha256.encode()
    other = seal.translate(bytes.maketrans(b"0123456789abcdef", b"123456789abcdef0"))
    live.pool[2].write_bytes(data.replace(seal, other))
    return f"pool/{live.pool[2].name}"


def changed_score(live: Web) -> str:
    """As somebody would who knows nothing of the seal: read, change, write with the same metadata."""
    path = candidates(live)[0]
    table = pq.read_table(path)
    rows = table["captions"].to_pylist()
    rows[0][0]["scores"][0]["itm"] = 0.999
    at = table.column_names.index("captions")
    pq.write_table(
        table.set_column(at, table.schema.field("captions"), pa.array(rows, table.schema.field("captions").type)), path
    )
    return f"round-1/candidates/{path.name}"


def deleted_candidates(live: Web) -> str:
    candidates(live)[2].unlink()
    return f"round-1/candidates/{candidates(live)[1].name}".replace(candidates(live)[1].name, live.pool[2].name)


def deleted_selection(live: Web) -> str:
    (live.run_folder / "round-1/selection/selection.parquet").unlink()
    return "round-1/selection/selection.parquet"


def flipped_card(live: Web) -> str:
    flip(live.run_folder / "round-1/dataset/README.md", 10)
    return "round-1/dataset/README.md"


def torn_manifest(live: Web) -> str:
    path = live.run_folder / "round-1/dataset/manifest.json"
    path.write_bytes(path.read_bytes()[:-20])
    return "round-1/dataset/manifest.json"


def stranger_in_the_pool(live: Web) -> str:
    (live.run_folder / "pool" / "notes.txt").write_text("mine")
    return "pool/notes.txt"


def shard_that_no_manifest_names(live: Web) -> str:
    (live.run_folder / "round-1/dataset/parquet/00001.parquet").write_bytes(b"PAR1")
    return "round-1/dataset/parquet/00001.parquet"


def other_chunk_under_this_name(live: Web) -> str:
    live.pool[0].write_bytes(live.pool[1].read_bytes())
    return f"pool/{live.pool[0].name}"


CHANGES: list[tuple[Change, str]] = [
    (flipped_shard, "--from round-1/write"),
    (truncated_pool_chunk, "makes it anew"),
    (flipped_pool_picture, "delete it, then capfilt run"),
    (flipped_digit_of_the_seal, "delete it, then capfilt run"),
    (changed_score, "sets it aside, makes it anew"),
    (deleted_candidates, "makes it anew"),
    (deleted_selection, "--from round-1/select"),
    (flipped_card, "--from round-1/write"),
    (torn_manifest, "--from round-1/write"),
    (stranger_in_the_pool, "move it out"),
    (shard_that_no_manifest_names, "move it out"),
    (other_chunk_under_this_name, "delete it, then capfilt run"),
]


@pytest.mark.parametrize(("change", "advice"), CHANGES, ids=lambda value: getattr(value, "__name__", ""))
def test_what_differs_is_found_and_nothing_else(live: Web, change: Change, advice: str) -> None:
    live.run()
    path = change(live)
    told = look(live, rows=0).differences
    assert {difference.path for difference in told} >= {path}
    # A manifest that cannot be read names no shards any more.
    assert {difference.path for difference in told} <= {path, "round-1/dataset/parquet/00000.parquet"}
    assert advice in next(difference.advice for difference in told if difference.path == path)


@pytest.mark.parametrize("change", [truncated_pool_chunk, deleted_candidates, flipped_shard, deleted_selection])
def test_the_advice_mends_it(live: Web, change: Change) -> None:
    live.run()
    before = tree_of(live.run_folder / "round-1")
    change(live)
    (difference,) = look(live, rows=0).differences
    _, _, start_from = difference.advice.partition("--from ")
    live.run(**({"start_from": start_from} if start_from else {}))
    assert look(live).differences == []
    assert {name: data for name, data in tree_of(live.run_folder / "round-1").items() if name in before} == before


# ── rows made again ─────────────────────────────────────────────────────────────────────────────────────────


def resealed(live: Web, change: Callable[[dict[str, Any]], None]) -> Path:
    """A candidates chunk whose file is right in itself, and whose first row is not what the models say."""
    path = candidates(live)[1]
    table, footer = pq.read_table(path).replace_schema_metadata(None), footer_of(path)
    rows = table.to_pylist()
    change(rows[0])
    kept = {"chunk_id": footer.chunk_id, "fingerprint": footer.fingerprint, "made_from": footer.made_from}
    commit(pa.Table.from_pylist(rows, schema=table.schema), str(path.parent), stage="candidates", **kept)
    return path


def other_text(row: dict[str, Any]) -> None:
    row["captions"][1]["text"] = "a lie"


def other_log_prob(row: dict[str, Any]) -> None:
    row["captions"][1]["log_prob"] -= 1e-4


def other_score(row: dict[str, Any]) -> None:
    row["captions"][0]["scores"][0]["itm"] += 1e-6


def other_embedding(row: dict[str, Any]) -> None:
    row["embedding"] = [row["embedding"][1], row["embedding"][0]]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (other_text, "text 0 of fake"),
        (other_log_prob, "text 0 of fake"),
        (other_score, "itm of text 0"),
        (other_embedding, "embedding"),
    ],
)
def test_a_row_that_the_models_do_not_make_so_is_found(
    live: Web, change: Callable[[dict[str, Any]], None], expected: str
) -> None:
    live.run()
    path = resealed(live, change)
    told = look(live).differences
    assert {(difference.path, difference.expected.partition(":")[0][: len(expected)]) for difference in told} >= {
        (f"round-1/candidates/{path.name} row 0", expected)
    }
    assert all(difference.advice.endswith("--from round-1/caption") for difference in told)


def test_chunks_whose_batches_shrank_are_compared_within_a_tolerance(live: Web) -> None:
    live.run()
    path = resealed(live, other_score)
    assert look(live).differences != []
    files.append_line(str(live.run_folder), "memory", {"phase": "round-1/candidates", "chunk_id": footer_of(path).chunk_id})
    found = look(live)
    assert found.differences == []
    assert any("halved model batches" in note for note in found.notes)


def test_the_sample_is_by_chance_of_the_seed_and_every_row_can_be_drawn() -> None:
    healthy = {"b": 3, "a": 2, "c": 0, "d": 5}
    assert sample(healthy, 4, 1) == sample(healthy, 4, 1)
    assert len({json.dumps(sample(healthy, 4, seed)) for seed in range(5)}) > 1
    assert sample(healthy, 99, 0) == {"a": [0, 1], "b": [0, 1, 2], "d": [0, 1, 2, 3, 4]}
    assert sample({}, 5, 0) == {}


# ── what is no fault ────────────────────────────────────────────────────────────────────────────────────────


def test_a_run_that_has_not_ended_is_not_at_fault(live: Web) -> None:
    live.run(until="pool")
    assert look(live).differences == []
    live.run(until="select")
    assert look(live).differences == []


def test_candidates_older_than_the_pool_are_told_and_the_next_run_mends_it(live: Web) -> None:
    live.run()
    live.answers[1] = FOUND
    live.retry()
    found = look(live)
    assert found.differences == []
    assert any("1 chunk(s) are older than the pool" in note for note in found.notes)
    live.run()
    assert look(live).notes == []


def test_what_a_killed_writer_left_is_told(live: Web) -> None:
    live.run()
    (live.run_folder / "pool" / ".chunk-0.parquet.1-2.part").write_bytes(b"PAR1")
    found = look(live)
    assert found.differences == []
    assert any("left by a start that was killed" in note for note in found.notes)


def test_a_quarantined_chunk_is_not_missed(live: Web) -> None:
    live.fails_at = 5
    live.run("resources.max_failure_rate.download=0.9")
    assert look(live).differences == []


def test_other_models_are_told_once(live: Web) -> None:
    live.run()
    mark = live.run_folder / "steps" / "round-1-candidates.json"
    files.put_json(str(mark), {**json.loads(mark.read_text()), "fingerprint": "0" * 16})
    told = [difference for difference in look(live).differences if difference.path == "round-1/candidates"]
    assert len(told) == 1
    assert "a model is another" in told[0].found


def test_a_folder_at_work_or_without_a_run_is_refused(live: Web) -> None:
    live.run(until="pool")
    with Lease(str(live.run_folder)), pytest.raises(LeaseError):
        look(live)
    (live.run_folder / "inputs.parquet").unlink()
    with pytest.raises(RunStateError, match=r"no inputs\.parquet"):
        look(live)


def test_a_chunk_without_a_sha256_is_read_and_told(live: Web) -> None:
    """As one of the first version: only the counts can be checked."""
    live.run(until="pool")
    path = live.pool[0]
    table = pq.read_table(path)
    mark = json.loads(table.schema.metadata[FOOTER_KEY])
    del mark["made_from"]
    table = table.replace_schema_metadata({FOOTER_KEY: json.dumps(mark)})
    pq.write_table(table, path)
    assert footer_of(path).sha256 == ""
    assert any("no sha256 in it" in note for note in look(live).notes)
    status = table.column_names.index("status")
    pq.write_table(table.set_column(status, "status", pc.replace_substring(table["status"], "ok", "opted_out")), path)
    (difference,) = look(live).differences
    assert isinstance(difference, Difference)
    assert difference.expected.startswith("rows by status")


def test_the_advice_about_a_run_that_was_moved_is_for_where_it_lies(live: Web) -> None:
    live.run()
    moved = live.folder / "try #2"
    live.run_folder.rename(moved)
    flip(moved / "round-1/dataset/parquet/00000.parquet", 500)
    settings = load_pipeline(moved / "config.yaml", [output_setting(str(moved))])
    (difference,) = verify(settings, rows=0, seed=0, progress=SilentProgress()).differences
    _, _, config, *options = shlex.split(difference.advice)
    assert options[2:] == ["--from", "round-1/write"]
    run_pipeline(load_pipeline(config, [options[1]]), start_from=options[3], progress=SilentProgress())
    assert verify(settings, rows=0, seed=0, progress=SilentProgress()).differences == []
    assert not live.run_folder.exists()
