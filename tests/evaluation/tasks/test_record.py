"""What `--out` holds is kept, continued and never lost by mistake."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from capfilt.config.downstream import Evaluation
from capfilt.errors import ConfigError, InputError, Interrupted, OutputError
from capfilt.evaluation import tasks
from capfilt.evaluation.tasks import evaluate_tasks
from capfilt.modeling.families import Loaded, save_network
from capfilt.run.progress import PlainProgress


@pytest.fixture
def make_evaluation(data: Path, make_loaded: Callable[[str], Loaded], tmp_path: Path) -> Callable[..., Evaluation]:
    """Labels by colour, then a pooler, of a CoCa."""
    save_network(tmp_path / "coca", make_loaded("coca"))
    for part in ("train", "test"):
        (tmp_path / f"{part}.parquet").write_bytes((data / f"{part}-labelled.parquet").read_bytes())

    def make(steps: int = 1, **more: Any) -> Evaluation:
        shared = {"data": str(tmp_path / "test.parquet")}
        fitted = {"train": str(tmp_path / "train.parquet"), "columns": ["colour"], "fit": {"steps": steps}}
        told = [
            {"kind": "zero_shot", "column": "colour", **shared},
            {"kind": "frozen_classifier", **fitted, **shared},
        ]
        return Evaluation.model_validate({"model": str(tmp_path / "coca"), "bootstrap": 20, "tasks": told, **more})

    return make


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kinds of the tasks that are done, one after another."""
    done: list[str] = []
    measure = tasks.measure

    def noting(task: Any, asked: Any) -> Any:
        found = measure(task, asked)
        done.append(task.kind)
        return found

    monkeypatch.setattr(tasks, "measure", noting)
    return done


def test_a_second_start_measures_nothing_again_and_says_so(
    make_evaluation: Callable[..., Evaluation], measured: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "sub" / "out.json"
    first = evaluate_tasks(make_evaluation(), out=str(out))
    content = out.read_bytes()
    assert json.loads(content) == first
    second = evaluate_tasks(make_evaluation(), out=str(out), progress=PlainProgress())
    assert measured == ["zero_shot", "frozen_classifier"]
    assert (second, out.read_bytes()) == (first, content)
    assert "zero_shot: done already; --fresh measures it again" in capsys.readouterr().err
    evaluate_tasks(make_evaluation(), out=str(out), is_fresh=True)
    assert len(measured) == 4
    assert out.read_bytes() == content


def test_only_what_a_change_touches_is_measured_again(
    make_evaluation: Callable[..., Evaluation], make_loaded: Callable[[str], Loaded], measured: list[str], tmp_path: Path
) -> None:
    out = str(tmp_path / "out.json")
    evaluate_tasks(make_evaluation(), out=out)
    measured.clear()
    evaluate_tasks(make_evaluation(steps=2, batch_size=7), out=out)
    assert measured == ["frozen_classifier"], "another training; how many pictures at once is no result"
    measured.clear()
    pq.write_table(pq.read_table(tmp_path / "train.parquet").slice(0, 20), tmp_path / "train.parquet")
    evaluate_tasks(make_evaluation(steps=2), out=out)
    assert measured == ["frozen_classifier"], "the other one learns nothing from these rows"
    measured.clear()
    loaded: Any = make_loaded("coca")
    loaded.model.text_projection.weight.data.mul_(-1)
    save_network(tmp_path / "coca", loaded)
    evaluate_tasks(make_evaluation(steps=2), out=out)
    assert measured == ["zero_shot", "frozen_classifier"], "other weights under the same name"
    measured.clear()
    evaluate_tasks(make_evaluation(steps=2, seed=1), out=out)
    assert len(measured) == 2


def test_what_was_done_before_a_stop_is_kept(
    make_evaluation: Callable[..., Evaluation], measured: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.json"
    with monkeypatch.context() as stopping:

        def stop(*args: Any) -> None:
            raise KeyboardInterrupt

        stopping.setattr(tasks, "frozen_classifier", stop)
        with pytest.raises(
            Interrupted, match=r"stopped in frozen_classifier; 1 of 2 tasks are in .*out\.json; the same command goes on"
        ):
            evaluate_tasks(make_evaluation(), out=str(out))
        with pytest.raises(Interrupted, match="stopped in frozen_classifier; nothing is kept without --out"):
            evaluate_tasks(make_evaluation())
    assert list(json.loads(out.read_text())["tasks"]) == ["zero_shot"]
    measured.clear()
    evaluate_tasks(make_evaluation(), out=str(out))
    assert measured == ["frozen_classifier"]


def test_a_stop_loses_nothing_that_a_later_task_had(
    make_evaluation: Callable[..., Evaluation], measured: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.json"
    evaluate_tasks(make_evaluation(), out=str(out))
    known = json.loads(out.read_text())
    del known["tasks"]["zero_shot"]
    out.write_text(json.dumps(known))
    with monkeypatch.context() as stopping:

        def stop(*args: Any) -> None:
            raise KeyboardInterrupt

        stopping.setattr(tasks, "zero_shot", stop)
        with pytest.raises(Interrupted):
            evaluate_tasks(make_evaluation(), out=str(out))
    assert list(json.loads(out.read_text())["tasks"]) == ["frozen_classifier"]


def test_another_task_file_leaves_what_the_first_has_measured_unless_the_network_changed(
    make_evaluation: Callable[..., Evaluation], make_loaded: Callable[[str], Loaded], tmp_path: Path
) -> None:
    out = tmp_path / "out.json"
    evaluate_tasks(make_evaluation(), out=str(out))
    both = json.loads(out.read_text())["tasks"]
    other = make_evaluation()
    other = other.model_copy(update={"tasks": [other.tasks[0].model_copy(update={"name": "again"})]})
    told = evaluate_tasks(other, out=str(out))
    assert list(told["tasks"]) == ["again"]
    kept = json.loads(out.read_text())["tasks"]
    assert {name: kept[name] for name in both} == both
    assert set(kept) == {*both, "again"}
    loaded: Any = make_loaded("coca")
    loaded.model.text_projection.weight.data.mul_(-1)
    save_network(tmp_path / "coca", loaded)
    evaluate_tasks(other, out=str(out))
    assert list(json.loads(out.read_text())["tasks"]) == ["again"]


def test_a_file_of_something_else_is_not_written_over(
    make_evaluation: Callable[..., Evaluation], make_loaded: Callable[[str], Loaded], tmp_path: Path
) -> None:
    out = tmp_path / "out.json"
    out.write_text("my notes")
    with pytest.raises(InputError, match="expected what capfilt evaluate wrote, found another file"):
        evaluate_tasks(make_evaluation(), out=str(out))
    assert out.read_text() == "my notes"
    evaluate_tasks(make_evaluation(), out=str(out), is_fresh=True)
    save_network(tmp_path / "other", make_loaded("coca"))
    with pytest.raises(
        ConfigError, match=r"expected the results of .*other, found those of .*coca\. Name another file, or --fresh"
    ):
        evaluate_tasks(make_evaluation(model=str(tmp_path / "other")), out=str(out))
    assert json.loads(out.read_text())["model"] == str(tmp_path / "coca")


def test_a_place_that_takes_no_file_is_told_before_any_work(
    make_evaluation: Callable[..., Evaluation], measured: list[str], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="expected a file to write, found"):
        evaluate_tasks(make_evaluation(), out=str(tmp_path))
    (tmp_path / "file").write_text("")
    with pytest.raises((InputError, OutputError), match="file"):
        evaluate_tasks(make_evaluation(), out=str(tmp_path / "file" / "out.json"))
    assert measured == []
