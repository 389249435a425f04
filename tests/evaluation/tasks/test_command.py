"""`capfilt evaluate` from its file to its table."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from capfilt import cli
from capfilt.config.load import load_evaluation
from capfilt.errors import ConfigError
from capfilt.modeling.families import Loaded, save_network


def test_a_file_of_tasks_gives_a_table_and_a_json_file(
    data: Path,
    make_loaded: Callable[[str], Loaded],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    save_network(tmp_path / "coca", make_loaded("coca"))
    file = tmp_path / "tasks.yaml"
    file.write_text(
        f"model: {tmp_path / 'coca'}\nbootstrap: 20\ntasks:\n"
        f"  - {{kind: zero_shot, name: colours, data: {data / 'test-labelled.parquet'}, column: colour}}\n"
        f"  - kind: frozen_classifier\n    train: {data / 'train-labelled.parquet'}\n"
        f"    data: {data / 'test-labelled.parquet'}\n    columns: [colour]\n    fit: {{steps: 2}}\n"
    )
    out = tmp_path / "results" / "coca.json"
    monkeypatch.setattr(sys, "argv", ["capfilt", "evaluate", str(file), "--out", str(out), "--set", "seed=3"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    found = json.loads(out.read_text())
    assert (found["family"], found["settings"]["seed"]) == ("CoCa", 3)
    assert list(found["tasks"]) == ["colours", "frozen_classifier"]
    told = capsys.readouterr().out
    value = found["tasks"]["colours"]["accuracy"]["value"]
    assert any(line.split()[:3] == ["colours", "accuracy", f"{value:.3f}"] for line in told.splitlines())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: m\ntasks: [{kind: vqqa, data: d, train: t}]", "vqqa"),
        ("model: m\ntasks: [{kind: vqa, data: d}]", "train"),
        ("model: m\ntasks: [{kind: zero_shot, data: d, templates: [no label]}]", r"expected \{label\} in each"),
        ("model: m\ntasks: [{kind: captioning, data: d}, {kind: captioning, data: e}]", "found captioning twice"),
        ("model: m\ntasks: []", "tasks"),
        ("just text", "expected `model` and `tasks`"),
    ],
)
def test_a_wrong_file_is_told_before_any_work(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "tasks.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_evaluation(file)


def test_the_bundled_tasks_are_right_and_found_by_name() -> None:
    tasks = load_evaluation(Path(__file__).parents[3] / "pipelines" / "tasks" / "quickstart.yaml").tasks
    assert len({task.kind for task in tasks}) == 9, "every kind once"
    assert load_evaluation("quickstart").tasks == tasks
    with pytest.raises(ConfigError, match=r"quickstrat: expected a file of tasks, found none\. .* Did you mean 'quickstart'"):
        load_evaluation("quickstrat")
