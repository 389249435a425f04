"""Equal image encoders are found by content, run as one with the same bytes, and one set of weights in both roles is refused."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from capfilt.config.pipeline import Pipeline
from capfilt.errors import ConfigError
from capfilt.plan import Chunk
from capfilt.run import files
from capfilt.run.build import Job
from capfilt.run.commit import commit
from capfilt.run.local_executor import LocalExecutor
from capfilt.run.pairing import compare, foreseen, paired

Twin = Callable[..., Path]


@pytest.fixture
def job_of(tmp_path: Path, med_folder: Path, med_pipeline: Callable[..., Pipeline]) -> Callable[..., Job]:
    def make(scorer: Path, *, name: str = "run", batch: int = 3, fuse: str = "true", allowed: str = "false") -> Job:
        said = {"output": tmp_path / name, "captioner": med_folder, "scorer": scorer, "batch": batch}
        return Job("candidates", med_pipeline(**said, fuse=fuse, allowed=allowed), "f", 1)

    return make


def candidates(job: Job, pool_table: Callable[[str, list[int | None]], Any], break_one: bool) -> dict[str, bytes]:
    import pyarrow as pa

    chunks = []
    for number, shades in enumerate([[0, 10, None, 30, 40, 50, 60, 70], [None, None], [200]]):
        table = pool_table(f"{number:016x}", shades)
        if break_one and number == 0:
            pictures = table["image"].to_pylist()
            pictures[4] = pictures[4][:40]
            table = table.set_column(table.column_names.index("image"), "image", pa.array(pictures, pa.large_binary()))
        commit(table, job.pool, chunk_id=f"{number:016x}", fingerprint="f", stage="pool")
        chunks.append(Chunk(f"{number:016x}", "web.parquet", "e", 0, 0, len(shades), 0))
    outcomes = list(LocalExecutor().run(job, chunks))
    assert [(outcome.stage, outcome.error) for outcome in outcomes] == [("filter", None)] * 3
    return {path.name: path.read_bytes() for path in Path(job.folder).glob("chunk-*")}


@pytest.mark.parametrize("break_one", [False, True])
def test_fused_or_not_the_candidates_are_the_same_bytes(
    job_of: Callable[..., Job], twin: Twin, pool_table: Any, monkeypatch: pytest.MonkeyPatch, break_one: bool
) -> None:
    from capfilt.modeling.vision import VisionTransformer

    encoded: list[int] = []
    forward = VisionTransformer.forward

    def counted(self: Any, pixels_BCHW: Any, **options: Any) -> Any:
        encoded.append(len(pixels_BCHW))
        return forward(self, pixels_BCHW, **options)

    monkeypatch.setattr(VisionTransformer, "forward", counted)
    scorer = twin("text_", "itm_head", "image_projection")
    once, _ = paired(job_of(scorer, name="once"))
    each, _ = paired(job_of(scorer, name="each", fuse="false"))
    assert (once.fused, each.fused) == (True, False)
    found = candidates(once, pool_table, break_one)
    batches = len(encoded)
    assert found == candidates(each, pool_table, break_one)
    assert len(found) == 3
    # Seven, none and one healthy rows, by three. Behind the broken picture the filter's batches are others than the captioner's.
    assert (batches, len(encoded) - batches) == ((5, 7) if break_one else (4, 8))


def test_what_is_not_encoded_alike_is_not_fused(job_of: Callable[..., Job], twin: Twin) -> None:
    text = twin("text_", "itm_head")
    _, pairing = paired(job_of(text, batch=4))
    assert pairing is not None
    assert (pairing.trunk, pairing.weights, pairing.fused) == ("shared", "separate", False)
    assert "caption.batch_size 3 and filter.batch_size 4 differ" in (pairing.told or "")
    job, pairing = paired(job_of(twin("vision.blocks", "text_"), name="other"))
    assert pairing is not None
    assert (pairing.trunk, pairing.told, job.fused) == ("separate", None, False)


def test_the_same_weights_under_another_name_are_refused_until_they_are_allowed(job_of: Callable[..., Job], twin: Twin) -> None:
    for copy in (twin(), twin("itm_head", "image_projection", "text_encoder.layers.0.self_block")):
        with pytest.raises(ConfigError, match=r"expected other weights than the captioner's.*allow_shared_weights: true"):
            paired(job_of(copy))
    job, pairing = paired(job_of(twin(), name="allowed", allowed="true"))
    assert pairing is not None
    assert (pairing.weights, job.fused) == ("shared", True)
    assert "the same weights" in (pairing.told or "")
    notes = foreseen(job.pipeline)
    assert notes[0].startswith("BEWARE: captioner and filter are the same weights")
    assert notes[1].startswith("round 1: captioner and filter are the same weights")
    assert foreseen(job_of(twin("text_"), name="apart", allowed="true").pipeline) == []


def test_the_models_are_compared_once_and_anew_when_they_change(
    job_of: Callable[..., Job], twin: Twin, monkeypatch: pytest.MonkeyPatch
) -> None:
    from capfilt.run import pairing

    asked: list[Any] = []
    compare = pairing.compare
    monkeypatch.setattr(pairing, "compare", lambda *sources: asked.append(sources) or compare(*sources))
    first = job_of(twin("text_"))
    paired(first)
    job, _ = paired(first)
    assert (len(asked), job.fused) == (1, True)
    job, _ = paired(job_of(twin("vision.", "text_")))
    assert (len(asked), job.fused) == (2, False)
    assert [line["trunk"] for line in files.lines(first.pipeline.output, "pairing")] == ["shared", "separate"]


def test_a_custom_model_is_nobodys_twin(pipeline_of: Callable[..., Any], tmp_path: Path) -> None:
    job = Job("candidates", pipeline_of(tmp_path), "f", 1)
    assert paired(job) == (job, None)
    assert replace(job, fused=False) == job


def test_another_family_and_a_model_that_is_not_here_are_nobodys_twins(twin: Twin, tmp_path: Path) -> None:
    other = twin()
    (other / "architecture.yaml").write_text("kind: coca\n")
    assert compare(str(twin()), str(other)) is None
    again = shutil.copytree(other, tmp_path / "again")
    assert compare(str(other), str(again)) == ("separate", "shared")
    assert compare(str(twin()), str(tmp_path / "nowhere")) is None


def test_of_a_list_the_closest_pair_is_told_at_every_start(
    job_of: Callable[..., Job], twin: Twin, med_folder: Path, tmp_path: Path
) -> None:
    job = job_of(twin(), allowed="true")
    paired(job)
    assert job.pipeline.filter is not None
    far = job.pipeline.filter.filters[0].model_copy(update={"checkpoint": str(twin("vision.", "text_")), "name": "far"})
    several = job.pipeline.filter.model_copy(update={"filter": [*job.pipeline.filter.filters, far]})
    listed = replace(job, pipeline=job.pipeline.model_copy(update={"filter": several}))
    for _ in range(2):
        found, pairing = paired(listed)
        assert pairing is not None
        assert (pairing.weights, found.fused) == ("shared", False)
        assert "there are several captioners or filters" in pairing.apart
        lines = files.lines(job.pipeline.output, "pairing")
        assert (len(lines), lines[-1]["weights"]) == (3, "shared")


def test_of_several_models_each_is_loaded_once(twin: Twin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from capfilt.modeling import families
    from capfilt.run import look
    from capfilt.run.look import Look

    monkeypatch.setattr(look, "_FINGERPRINTS", {})
    loaded: list[Path] = []
    load = families.load_network
    monkeypatch.setattr(families, "load_network", lambda source: loaded.append(source) or load(source))
    written = [str(twin()), str(twin("text_"))]
    read = [str(twin("itm_head")), str(twin("vision.")), str(twin("vision.", "text_"))]
    once = Look()
    found = [compare(captioner, scorer, once) for captioner in written for scorer in read]
    apart = ("separate", "separate")
    assert found == [("shared", "shared"), apart, apart, ("shared", "separate"), apart, apart]
    assert [compare(captioner, scorer) for captioner in written for scorer in read] == found
    assert sorted(map(str, loaded)) == sorted(written + read)
