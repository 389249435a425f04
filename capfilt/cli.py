"""The command `capfilt`: parses its arguments, calls the package, prints what comes back.

Decides nothing itself, and imports what is heavy only in the command that needs it.
"""

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from capfilt import __version__
from capfilt.errors import CapfiltError, ConfigError, InputError, Interrupted, RunStateError

if TYPE_CHECKING:
    from capfilt.config.decoding import Decoding
    from capfilt.config.pipeline import Pipeline

app = typer.Typer(
    name="capfilt",
    help="CapFilt as software: caption, filter and select noisy web pairs, train on the result, round after round.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

PipelineFile = Annotated[str, typer.Argument(metavar="P.yaml", help="A pipeline file, or the name of a bundled one.")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, such as runs/quickstart.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="Override one value: select.min_itm=0.7")]
Limit = Annotated[int | None, typer.Option("--limit", metavar="N", help="The first N rows only, in a run folder of its own.")]


def main() -> None:
    """The console entry: the exit code of capfilt/errors.py, and a traceback only for what nobody foresaw."""
    # A thread that waits for another sleeps after some 0.2 ms. Spinning for 5 ms, as is the default, takes the core from whom it
    # waits for where the machine has other work: a training step was seen to take ten times as long. Sleeping at once costs an
    # idle machine a tenth of the step, since most waits are short. Read when torch is imported.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    # A model of the user's own may lie where the command is given, as for `python -m capfilt`; last, so that it hides nothing.
    with suppress(FileNotFoundError):  # a folder that was removed since
        sys.path.append(os.getcwd())
    try:
        app()
    except CapfiltError as error:
        if os.environ.get("CAPFILT_DEBUG") == "1":
            raise
        print(f"capfilt: {error}", file=sys.stderr, flush=True)
        if isinstance(error, Interrupted) and "ray" in sys.modules:
            os._exit(error.exit_code)  # seen: interrupted in the middle of its work, Ray's C++ aborts as Python ends
        sys.exit(error.exit_code)


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(f"capfilt {__version__}")
        raise typer.Exit


@app.command()
def run(
    pipeline: PipelineFile,
    overrides: Set = None,
    limit: Limit = None,
    until: Annotated[str | None, typer.Option(metavar="[round-N/]STAGE", help="End after this stage.")] = None,
    start_from: Annotated[
        str | None,
        typer.Option("--from", metavar="[round-N/]STAGE", help="Redo this stage and what follows, keep what precedes."),
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Drop what the run folder holds and start over.")] = False,
) -> None:
    """Run a pipeline. The same command continues a run that was stopped."""
    source, loaded = _load(pipeline, overrides, limit)
    from capfilt.rounds import run_pipeline
    from capfilt.run.signals import orderly

    with orderly():
        result = run_pipeline(
            loaded,
            source=source,
            overrides=overrides or (),
            until=until,
            start_from=start_from,
            fresh=fresh,
            limit=limit,
        )
    print(result)
    if loaded.report.open and result.report and "://" not in result.report:
        typer.launch(result.report)


@app.command()
def plan(pipeline: PipelineFile, overrides: Set = None, limit: Limit = None) -> None:
    """Show what a run would do and what is done; after a trial with `run --limit`, also what it will cost. Starts nothing."""
    _, loaded = _load(pipeline, overrides, limit)
    from capfilt.run.bill import estimate
    from capfilt.run.context import continuing
    from capfilt.run.planning import plan_pipeline
    from capfilt.show import show_bill, show_plan

    planned = plan_pipeline(loaded, limit)
    show_plan(planned)
    if limit is None and loaded.caption is not None:
        decides = ("write", "select", "dedup", "filter", "caption")  # the last that is there
        until = next(name for name in decides if getattr(loaded, name) is not None)
        trial = continuing(pipeline, overrides or (), limit=2048, until=until)
        show_bill(estimate(loaded, planned.rows), trial)


@app.command()
def retry(
    run_folder: RunFolder,
    status: Annotated[
        str | None, typer.Option(metavar="STATUS", help="Rows with this status: download_failed, opted_out, image_invalid.")
    ] = None,
    error: Annotated[str | None, typer.Option(metavar="CODE", help="Of those, rows with this error: timeout, 'http_5*'.")] = None,
    quarantined: Annotated[bool, typer.Option("--quarantined", help="Chunks that failed as a whole.")] = False,
    overrides: Set = None,
) -> None:
    """Try failed rows, or quarantined chunks, of a run again, nothing else. The next `capfilt run` does what follows."""
    if (status is None) != quarantined or (error is not None and status is None):
        raise ConfigError("expected either --status STATUS, with --error or without, or --quarantined. Give one of the two")
    settings = _settings_of(run_folder, overrides)
    from capfilt.run.again import again_of
    from capfilt.run.progress import make_progress
    from capfilt.run.retry import retry_quarantined, retry_rows
    from capfilt.run.signals import orderly

    again = None if status is None else again_of(status, error)
    with orderly():
        if again is None:
            print(retry_quarantined(settings, progress=make_progress()))
        else:
            print(retry_rows(settings, again, progress=make_progress()))


@app.command()
def verify(
    run_folder: RunFolder,
    rows: Annotated[int, typer.Option(metavar="N", min=0, help="Rows of each round to caption and score again.")] = 16,
    seed: Annotated[int, typer.Option(help="Which rows.")] = 0,
    overrides: Set = None,
) -> None:
    """Read every file of a run again and make a few rows again: all must be as it was made. Changes nothing."""
    settings = _settings_of(run_folder, overrides)
    from capfilt.run.progress import make_progress
    from capfilt.run.signals import orderly
    from capfilt.run.verify import verify as verify_run
    from capfilt.show import show_verified

    with orderly():
        found = verify_run(settings, rows=rows, seed=seed, progress=make_progress())
    show_verified(found)
    if found.differences:
        raise RunStateError(
            f"{run_folder}: expected every file as it was made, found {len(found.differences)} difference(s). The table says "
            "what mends each"
        )


@app.command()
def select(
    run_folder: RunFolder,
    name: Annotated[str, typer.Option(help="Name of the view.")],
    overrides: Set = None,
    round_number: Annotated[int | None, typer.Option("--round", metavar="N", help="The last one where left out.")] = None,
    write: Annotated[bool, typer.Option("--write", help="Write the view's data set too, not only its uids and texts.")] = False,
) -> None:
    """Decide again from the scores: a named view, in seconds, without a model. The run's own selection stays."""
    from capfilt.run.files import writing
    from capfilt.run.state import readable
    from capfilt.run.views import select_again
    from capfilt.show import show_summary

    settings = _settings_of(run_folder, overrides)
    with readable(str(run_folder)), writing(str(run_folder), inside=True):
        summary, view = select_again(run_folder, name, settings, round_number=round_number, write=write)
    show_summary(name, summary)
    print(view)


@app.command()
def explain(
    run_folder: RunFolder,
    uid: Annotated[str, typer.Argument(metavar="UID", help="uid or row id of a pair.")],
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Tell what happened to one pair, stage by stage."""
    import json

    from capfilt.run.explain import explain as explain_pair
    from capfilt.run.state import readable
    from capfilt.show import show_journey

    _config_of(run_folder)
    with readable(str(run_folder)):
        rows = explain_pair(run_folder, uid)
    if as_json:
        print(json.dumps(rows, indent=2, ensure_ascii=False, default=str))
    else:
        for row in rows:
            show_journey(row)


@app.command()
def report(
    run_folder: Annotated[str, typer.Argument(metavar="RUN", help="A run folder or its address, such as s3://bucket/run.")],
    show: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
) -> None:
    """Write report.html of a run again and print where it is."""
    from capfilt.report import write_remote_report, write_report
    from capfilt.run.files import is_remote
    from capfilt.run.state import readable

    if is_remote(run_folder):
        print(write_remote_report(run_folder))
        return
    _config_of(Path(run_folder))
    with readable(run_folder):
        page = write_report(Path(run_folder))
    print(page)
    if show:
        typer.launch(str(page))


@app.command()
def caption(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model folder: runs/quickstart/round-1/models/captioner")],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE…", help="Picture files.")],
    prompt: Annotated[str, typer.Option(help="Words every caption begins with.")] = "a picture of ",
    decode: Annotated[str, typer.Option(metavar="KIND", help="beam, greedy, nucleus, or YAML: {kind: beam, beams: 5}")] = "beam",
    seed: Annotated[int, typer.Option(help="Chance of nucleus.")] = 0,
) -> None:
    """Caption pictures with a trained model, one line each."""
    from capfilt.images import ImageError, decode_rgb

    pictures = []
    for path in images:
        try:
            pictures.append(decode_rgb(path.read_bytes()))  # upright, on white, as the pipeline sees them
        except OSError as error:
            raise InputError(f"{path}: expected a picture, found {error}. Check the path") from None
        except ImageError as error:
            raise InputError(f"{path}: expected a picture (JPEG, PNG, WebP, GIF, BMP), found {error}. Name another") from None
    how = _decoding(decode)
    from capfilt import load_model

    texts = load_model(model).caption(pictures, prompt=prompt, decode=how, seed=seed)
    for path, text in zip(images, texts, strict=True):
        print(f"{path}\t{text}" if len(images) > 1 else text)


@app.command()
def evaluate(
    tasks: Annotated[str, typer.Argument(metavar="TASKS.yaml", help="A file with `model` and `tasks`; docs/evaluate.md.")],
    overrides: Set = None,
    out: Annotated[
        str | None, typer.Option(metavar="FILE", help="Keep what is measured here, as JSON; the same command then goes on.")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Measure again what FILE holds already.")] = False,
) -> None:
    """Measure what a model can be used for: retrieval, captions, questions, statements, labels, clips. Trains new heads, where a
    task needs one, on a copy; the model stays as it is."""
    from capfilt.config.load import load_evaluation

    asked = load_evaluation(tasks, overrides or ())
    from capfilt.evaluation.tasks import evaluate_tasks
    from capfilt.run.progress import make_progress
    from capfilt.run.signals import orderly
    from capfilt.show import show_measured

    with orderly():
        found = evaluate_tasks(asked, out=out, is_fresh=fresh, progress=make_progress())
    show_measured(found)
    if out is not None:
        print(out)


@app.command(name="export-model")
def export_model(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model: our folder, a .pth file, or a hub name.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write.")],
    role: Annotated[str | None, typer.Option("--as", metavar="ROLE", help="captioner or filter, where MODEL is both.")] = None,
    vocabulary: Annotated[Path | None, typer.Option(help="vocab.txt, for a .pth file without one beside it.")] = None,
) -> None:
    """Write a model as a folder that transformers' BlipForConditionalGeneration or BlipForImageTextRetrieval loads."""
    from capfilt.modeling.families import load_network
    from capfilt.modeling.med.checkpoints.export import CLASSES, export_transformers

    asked = next((known for known in CLASSES if known == role), None)
    if role is not None and asked is None:
        raise ConfigError(f"--as: expected {' or '.join(CLASSES)}, found {role!r}; name one of them")
    print(export_transformers(load_network(model, vocabulary=vocabulary), out, asked))


@app.command()
def schema(
    of: Annotated[
        str, typer.Argument(metavar="[pipeline|evaluate]", help="Of a pipeline, or of the file of evaluate.")
    ] = "pipeline",
) -> None:
    """Print the JSON schema of pipeline files, for editors: capfilt schema > capfilt.schema.json"""
    import json

    from capfilt.config.base import Section
    from capfilt.config.downstream import Evaluation
    from capfilt.config.pipeline import Pipeline

    known: dict[str, tuple[type[Section], str]] = {
        "pipeline": (Pipeline, "capfilt pipeline"),
        "evaluate": (Evaluation, "capfilt evaluate"),
    }
    if of not in known:
        raise ConfigError(f"schema: expected {' or '.join(known)}, found {of!r}; name one of them")
    section, title = known[of]
    dialect = "https://json-schema.org/draft/2020-12/schema"
    print(json.dumps({"$schema": dialect, **section.model_json_schema(), "title": title}, indent=2))


# ── what the commands share ─────────────────────────────────────────────────────────────────────────────────


def _load(pipeline: str, overrides: list[str] | None, limit: int | None) -> "tuple[Path, Pipeline]":
    from capfilt.config.load import find_yaml, load_pipeline

    source = find_yaml(pipeline, "pipelines")
    return source, load_pipeline(source, overrides or (), limit)


def _settings_of(run_folder: Path, overrides: list[str] | None) -> "Pipeline":
    """The run's own config with `overrides`, `{output}` being where the folder is now."""
    from capfilt.config.load import load_pipeline, output_setting

    return load_pipeline(_config_of(run_folder), [*(overrides or ()), output_setting(str(run_folder))])


def _config_of(run_folder: Path) -> Path:
    config = run_folder / "config.yaml"
    if not os.path.isfile(config):  # also False for a name that is too long
        remote = ". Of a run on an object store, give a local copy" if ":/" in str(run_folder) else ""
        raise RunStateError(
            f"{run_folder}: expected a run folder, found no config.yaml in it. Give the `output` of a pipeline that ran{remote}"
        )
    return config


def _decoding(text: str) -> "Decoding":
    """`beam`, or YAML such as `{kind: beam, beams: 5}`."""
    from capfilt.config.decoding import Decoding
    from capfilt.config.load import load_section

    decoding: Decoding = load_section(text if ":" in text else f"kind: {text}", "--decode", Decoding)
    return decoding
