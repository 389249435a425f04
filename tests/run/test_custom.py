"""Models of the user's own code: the examples of docs/extending.md work, and what cannot work is refused before any work."""

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from capfilt.captioners import build_captioner
from capfilt.config.load import load_text
from capfilt.config.pipeline import Pipeline
from capfilt.errors import ConfigError
from capfilt.filters import build_filter
from capfilt.plan import plan_stages
from capfilt.run.custom import check_custom
from capfilt.run.preflight import check_means
from capfilt.stages.base import Guarded
from capfilt.stages.caption import CaptionStage
from capfilt.stages.filter import FilterStage

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"
YAML = """
version: 1
name: own
output: {folder}/run
read: {{paths: [web.parquet]}}
caption: {{captioner: {{kind: custom, target: "{captioner}", options: {options}}}, captions_per_image: 2}}
filter: {{filter: {{kind: custom, target: "{scorer}"}}}}
dedup: {{decontaminate: [{decontaminate}]}}
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Pipeline]]:
    """A pipeline whose models are the page's examples, or others; the page's lie in the first folder that is searched."""
    blocks = re.findall(r"```python\n# (mypackage/\w+\.py)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert [name for name, _ in blocks] == ["mypackage/captions.py", "mypackage/scores.py"]
    (tmp_path / "mypackage").mkdir()
    for name, code in blocks:
        (tmp_path / name).write_text(code, encoding="utf-8")
    (tmp_path / "mypackage" / "broken.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)

    def make(
        captioner: str = "mypackage.captions:MyCaptioner",
        scorer: str = "mypackage.scores:MyFilter",
        options: str = "{temperature: 0.7}",
        decontaminate: str = "",
    ) -> Pipeline:
        named = {"captioner": captioner, "scorer": scorer, "options": options, "decontaminate": decontaminate}
        return load_text(YAML.format(folder=tmp_path, **named))

    yield make
    for name in [name for name in sys.modules if name.partition(".")[0] == "mypackage"]:
        del sys.modules[name]


def test_the_examples_of_the_page_caption_and_score(own: Callable[..., Pipeline], pool_table: Callable[..., pa.Table]) -> None:
    pipeline = own()
    assert check_means(pipeline, plan_stages(pipeline, 1, {})) == []
    assert pipeline.caption is not None
    assert pipeline.filter is not None
    captioner = build_captioner(pipeline.caption, trained=None, device="cpu")
    scorer = build_filter(pipeline.filter, trained=None, device="cpu")
    table = pool_table("0" * 16, [10, None, 200])
    for stage in (
        CaptionStage(pipeline.caption, captioner=captioner, seed=0, round_number=1),
        FilterStage(pipeline.filter, scorer=scorer),
    ):
        table = Guarded(stage)(table)
    first, _, last = table.to_pylist()
    assert first["status"] == last["status"] == "ok"
    assert [caption["captioner"] for caption in first["captions"]] == [None, "sizes-1", "sizes-1"]
    assert all(caption["text"].startswith("a picture 16 pixels") for caption in first["captions"][1:])
    assert [[score["filter"] for score in caption["scores"]] for caption in last["captions"]] == [["colours-1"]] * 3
    assert sum(value**2 for value in last["embedding"]) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"captioner": "nowhere_at_all.captions:Mine"}, r"caption\.captioner\.target: .*No module named 'nowhere_at_all'"),
        (
            {"captioner": "mypackage.captions:Mine"},
            r"caption\.captioner\.target: .*AttributeError.* for mypackage\.captions:Mine",
        ),
        ({"captioner": "mypackage.broken:Mine"}, r"caption\.captioner\.target: .*found ZeroDivisionError"),
        ({"options": "{heat: 1}"}, r"caption\.captioner\.options: .*unexpected keyword argument 'heat'"),
        ({"scorer": "mypackage.captions:MyCaptioner"}, r"filter\.filter\.target: expected a class with the method `score`"),
        ({"captioner": "mypackage.captions:random"}, r"caption\.captioner\.options: .*not a callable object"),
    ],
)
def test_what_cannot_be_built_is_refused_before_any_work(
    own: Callable[..., Pipeline], changes: dict[str, str], found: str
) -> None:
    pipeline = own(**changes)
    with pytest.raises(ConfigError, match=found):
        check_means(pipeline, plan_stages(pipeline, 1, {}))
    assert check_means(pipeline, plan_stages(pipeline, 1, {"pool": 1, "round-1/candidates": 1, "round-1/dedup": 1})) == []


def test_one_of_several_is_named_by_its_place(own: Callable[..., Pipeline]) -> None:
    one = own()
    assert one.caption is not None
    captioners = [one.captioners[0], one.captioners[0].model_copy(update={"target": "nowhere_at_all:Mine"})]
    pipeline = one.model_copy(update={"caption": one.caption.model_copy(update={"captioner": captioners})})
    with pytest.raises(ConfigError, match=r"caption\.captioner\.1\.target"):
        check_custom(pipeline)


def test_a_filter_that_embeds_no_pictures_is_told_of_before_evaluation_pictures_are_overlooked(
    own: Callable[..., Pipeline], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("capfilt.run.preflight._check_files", lambda *_: None)
    pipeline = own(decontaminate="heldout.parquet")
    (line,) = check_means(pipeline, plan_stages(pipeline, 1, {}))
    assert line.startswith("dedup.decontaminate: mypackage.scores:MyFilter has no embed_images and embed_texts")
    import mypackage.scores

    for name in ("embed_images", "embed_texts"):
        monkeypatch.setattr(mypackage.scores.MyFilter, name, lambda *_: None, raising=False)
    assert check_means(pipeline, plan_stages(pipeline, 1, {})) == []
