"""The command line as a user meets it: quick, plain words for errors, exit codes, and no traceback unless asked for."""

import errno
import importlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from capfilt import cli
from capfilt.errors import ContractError, FailureBudgetError
from capfilt.schema import candidates_schema, pool_schema

HEAVY = ("torch", "ray", "transformers", "img2dataset", "faiss")


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The exit code of `capfilt arguments…`, run in this process."""
    monkeypatch.setattr(sys, "argv", ["capfilt", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    code = ended.value.code
    assert code is None or isinstance(code, int)
    return code or 0


@pytest.mark.parametrize("command", ["run", "plan", "retry", "verify", "select", "explain", "report", "caption", "schema"])
def test_every_command_explains_itself(command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(monkeypatch, command, "--help") == 0
    assert "Usage:" in capsys.readouterr().out


def test_a_module_in_the_working_folder_can_be_imported_and_hides_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the console script is started: without the working folder in sys.path."""
    (tmp_path / "capfilt_own_models.py").write_text("here = True\n")
    (tmp_path / "json.py").write_text("raise AssertionError('the standard library comes first')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    found: list[bool] = []
    monkeypatch.setattr(cli, "app", lambda: found.append(importlib.import_module("capfilt_own_models").here))
    monkeypatch.delitem(sys.modules, "json")
    cli.main()
    assert found == [True]
    assert importlib.import_module("json").loads("1") == 1


def test_the_version_is_the_packages(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from capfilt import __version__

    assert call(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"capfilt {__version__}\n"


def test_a_wrong_config_ends_with_2_and_plain_words(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(monkeypatch, "plan", "quickstart", "--set", "select.min_itn=1", "--set", "rounds=0") == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert "Did you mean 'min_itm'?" in told.err
    assert "--set rounds=0 rounds: 0 is out of range" in told.err
    assert "Traceback" not in told.err


def test_the_traceback_is_shown_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAPFILT_DEBUG", "1")
    monkeypatch.setattr(sys, "argv", ["capfilt", "plan", "no_such_pipeline"])
    with pytest.raises(cli.ConfigError, match="no 'no_such_pipeline'"):
        cli.main()


@pytest.mark.parametrize(("error", "code"), [(FailureBudgetError, 3), (ContractError, 4)])
def test_an_error_of_the_run_gives_its_exit_code(
    error: type[Exception], code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error("expected a, found b. Do c")

    monkeypatch.setattr(cli, "_load", fail)
    assert call(monkeypatch, "run", "quickstart") == code
    assert capsys.readouterr().err == "capfilt: expected a, found b. Do c\n"


def test_what_nobody_foresaw_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError("surprise")

    monkeypatch.setattr(cli, "_load", fail)
    monkeypatch.setattr(sys, "argv", ["capfilt", "run", "quickstart"])
    with pytest.raises(ZeroDivisionError, match="surprise"):
        cli.main()


def test_the_plan_of_the_quickstart_is_quick_and_imports_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys; from capfilt.cli import main\n"
        f"sys.argv = ['capfilt', 'plan', 'quickstart', '--set', 'output={tmp_path}/run']\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        f"print('HEAVY', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    begun = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert "HEAVY []" in done.stdout
    assert "round-1/caption" in done.stdout
    assert "fingerprint " in done.stdout
    assert not (tmp_path / "run").exists(), "a plan writes nothing"
    assert time.monotonic() - begun < 20  # under a second on an idle machine; this bound only catches a heavy import


def test_the_plan_counts_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(monkeypatch, "plan", "quickstart", "--limit", "300", "--set", f"output={tmp_path}/run") == 0
    told = capsys.readouterr().out
    assert "300 rows in 1 file(s), 2 chunks" in told
    assert "run-limit-300" in told


def test_the_plan_says_how_to_learn_what_a_run_will_cost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "plan", "quickstart", "--set", f"output={tmp_path}/run") == 0
    assert f"capfilt run quickstart --set output={tmp_path}/run --limit 2048 --until write" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("without", "last"), [(["write"], "select"), (["write", "select"], "dedup"), (["write", "select", "dedup"], "filter")]
)
def test_the_trial_it_advises_ends_after_a_stage_that_there_is(
    without: list[str],
    last: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    left_out = [word for section in without for word in ("--set", f"{section}=null")]
    assert call(monkeypatch, "plan", "quickstart", "--set", f"output={tmp_path}/run", *left_out) == 0
    told = capsys.readouterr().out
    assert f"--limit 2048 --until {last}\n" in told
    assert f"round-1/{last} " in told


def test_the_schema_describes_a_pipeline_and_its_kinds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "schema") == 0
    described = json.loads(capsys.readouterr().out)
    assert {"version", "name", "output"} <= set(described["required"])
    assert "read" in described["properties"]
    assert described["additionalProperties"] is False
    assert described["properties"]["resources"]["operational"] is True
    one, several = described["$defs"]["CaptionConfig"]["properties"]["captioner"]["oneOf"]
    for choice in (one, several["items"]):
        assert set(choice["discriminator"]["mapping"]) >= {"med", "trained", "custom"}


def test_the_schema_of_an_evaluation_describes_its_tasks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "schema", "evaluate") == 0
    described = json.loads(capsys.readouterr().out)
    assert (described["title"], described["required"]) == ("capfilt evaluate", ["model", "tasks"])
    assert "vqa" in described["properties"]["tasks"]["items"]["discriminator"]["mapping"]
    assert call(monkeypatch, "schema", "soup") == 2
    assert "schema: expected pipeline or evaluate, found 'soup'" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["", "missing", "file", "a" * 300])
@pytest.mark.parametrize(
    "arguments", [("select", "--name", "x"), ("report",), ("explain", "0" * 32), ("verify",), ("retry", "--quarantined")]
)
def test_a_folder_that_is_no_run_is_refused(
    arguments: tuple[str, ...], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("no folder")
    command, *rest = arguments
    assert call(monkeypatch, command, str(tmp_path / name), *rest) == 2
    assert f"{tmp_path / name}: expected a run folder, found no config.yaml in it" in capsys.readouterr().err


def test_a_picture_that_is_none_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.jpg").write_text("no picture")
    assert call(monkeypatch, "caption", "model", str(tmp_path / "a.jpg")) == 2
    assert "a.jpg: expected a picture" in capsys.readouterr().err


def test_pictures_to_caption_are_seen_upright_and_on_white(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lying = Image.new("RGB", (4, 2), "red")
    exif = lying.getexif()
    exif[0x0112] = 6  # a quarter turn
    lying.save(tmp_path / "a.jpg", exif=exif)
    Image.new("RGBA", (3, 3), (0, 0, 0, 0)).save(tmp_path / "b.png")
    shown: list[Image.Image] = []

    class Captioner:
        def caption(self, pictures: list[Image.Image], **_: object) -> list[str]:
            shown.extend(pictures)
            return ["a picture"] * len(pictures)

    monkeypatch.setattr("capfilt.load_model", lambda _: Captioner())
    assert call(monkeypatch, "caption", "model", str(tmp_path / "a.jpg"), str(tmp_path / "b.png")) == 0
    assert [picture.size for picture in shown] == [(2, 4), (3, 3)]
    assert shown[1].getpixel((1, 1)) == (255, 255, 255)


def test_a_decoding_may_be_a_word_or_yaml() -> None:
    assert cli._decoding("greedy").kind == "greedy"
    assert cli._decoding("{kind: beam, beams: 5}").model_dump()["beams"] == 5
    with pytest.raises(
        cli.ConfigError, match=r"--decode kind: 'beem' is not one of greedy, beam, nucleus\. Did you mean 'beam'\?"
    ):
        cli._decoding("beem")


def chunk(name: str, scores: list[float]) -> dict[str, Any]:
    """Columns of one pool and candidates row per score: a web text that the filter gave it."""
    rows = range(len(scores))
    texts = [f"text {row}" for row in rows]
    caption = {"origin": "web", "captioner": None, "k": None, "log_prob": None, "rule": None, "error": None}
    return {
        "row_id": [f"{name}-{row:06d}" for row in rows],
        "uid": [f"{row:032x}" for row in rows],
        "url": [f"http://a.test/{row}.jpg" for row in rows],
        "text": texts,
        "status": ["ok"] * len(scores),
        "error": [None] * len(scores),
        **{column: [8] * len(scores) for column in ("width", "height", "original_width", "original_height")},
        "sha256": [f"{row:064x}" for row in rows],
        "consent": ["none"] * len(scores),
        "captions": [
            [{**caption, "text": text, "scores": [{"filter": "med", "itm": score, "itc": 0.1}]}]
            for text, score in zip(texts, scores, strict=True)
        ],
    }


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A run that stopped after `filter`: three scored rows."""
    from capfilt.config.load import load_text
    from capfilt.config.source import dump

    folder = tmp_path / "run"
    for inside in ("pool", "round-1/candidates"):
        (folder / inside).mkdir(parents=True)
    models = "caption: {captioner: {kind: med, checkpoint: a}}\nfilter: {filter: {kind: med, checkpoint: b}}\n"
    pipeline = load_text(f"version: 1\nname: small\noutput: {folder}\nread: {{paths: [a]}}\n{models}select: {{}}\n")
    (folder / "config.yaml").write_text(dump(pipeline.model_dump(mode="json")))
    columns = chunk("0" * 16, [0.2, 0.6, 0.9])
    name = f"chunk-{'0' * 16}.parquet"
    pool = pa.Table.from_pydict({**columns, "image": [b"jpeg"] * 3}, schema=pool_schema())
    pq.write_table(pool, folder / "pool" / name)
    candidates = pa.Table.from_pydict({**columns, "embedding": [[1.0, 0.0]] * 3}, schema=candidates_schema(2))
    pq.write_table(candidates, folder / "round-1" / "candidates" / name)
    return folder


def test_select_makes_a_view_with_another_threshold_and_writes_its_data_set(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("select", str(run_folder), "--name", "strict", "--set", "select.min_itm=0.7", "--write")
    assert call(monkeypatch, *arguments) == 0
    view = run_folder / "round-1" / "views" / "strict"
    told = capsys.readouterr().out
    assert "view strict: 1 of 3 rows and 1 texts kept" in told
    assert told.splitlines()[-1] == str(view)
    assert pq.read_table(view / "selection.parquet")["kept"].to_pylist() == [[False], [False], [True]]
    written = pq.read_table(view / "dataset" / "parquet" / "00000.parquet")
    assert written["caption"].to_pylist() == ["text 2"]
    assert not (run_folder / "round-1" / "selection").exists(), "the run's own selection stays as it is"


@pytest.mark.parametrize("name", ["42", "run #2", "true"])
def test_a_run_folder_is_the_one_that_is_named_whatever_yaml_makes_of_its_name(
    run_folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run_folder.parent)
    shutil.copytree("run", name)
    assert call(monkeypatch, "select", name, "--name", "x") == 0
    assert (Path(name) / "round-1" / "views" / "x" / "view.npy").is_file()
    assert cli._settings_of(Path(name), None).output == name
    assert not (run_folder / "round-1" / "views").exists()


@pytest.mark.parametrize("is_here", [True, False])
@pytest.mark.parametrize(("number", "advice"), [(errno.ENOSPC, "make room"), (errno.EROFS, "change the permissions")])
def test_a_view_that_cannot_be_written_is_told_in_plain_words(
    run_folder: Path,
    number: int,
    advice: str,
    is_here: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(selection: Path, folder: Path, **_: Any) -> None:
        raise OSError(number, os.strerror(number), str(folder / "view.npy"))

    monkeypatch.chdir(run_folder)
    monkeypatch.setattr("capfilt.stages.select.write_view", refuse)
    assert call(monkeypatch, "select", "." if is_here else str(run_folder), "--name", "x") == 2
    told = capsys.readouterr().err
    assert os.strerror(number) in told
    assert advice in told


@pytest.mark.parametrize("arguments", [("explain", f"{1:032x}"), ("report",), ("select", "--name", "x")])
def test_a_damaged_table_is_told_with_the_command_that_finds_it(
    run_folder: Path, arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for inside in ("pool", "round-1/candidates"):
        for path in (run_folder / inside).iterdir():
            path.write_bytes(path.read_bytes()[:100])
    command, *rest = arguments
    assert call(monkeypatch, command, str(run_folder), *rest) == 2
    told = capsys.readouterr().err
    assert f"capfilt verify {run_folder}" in told or "Run the pipeline again: it makes missing chunks" in told


def test_explain_tells_a_pair_in_words_and_as_json(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "explain", str(run_folder), f"{1:032x}") == 0
    assert "text 1" in capsys.readouterr().out
    assert call(monkeypatch, "explain", str(run_folder), f"{1:032x}", "--json") == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["url"] == "http://a.test/1.jpg"
