"""The plan of a pipeline file as it stands on disk: index, what is there already, and what would be redone.

Opens footers and folders, never rows or models; imports nothing heavy, so that `capfilt plan` answers at once.
"""

from collections.abc import Sequence

from capfilt.config.pipeline import Pipeline
from capfilt.config.round import NamedModel
from capfilt.plan import InputFile, Plan, PlannedStage, differences, first_touched, make_plan, plan_stages, run_settings
from capfilt.run import files, index
from capfilt.run.pairing import foreseen
from capfilt.run.place import check_place, inputs_inside
from capfilt.run.preflight import missing_files

MINIWEB_ROWS_PER_GROUP = 1 << 20  # what pyarrow writes


def plan_pipeline(pipeline: Pipeline, limit: int | None = None) -> Plan:
    """What `capfilt run` would do now. Writes nothing.

    Raises:
        ConfigError: If the run folder may not be one.
        InputError: If there are no input rows.
        RunStateError: If an input file changed since the run began.
    """
    check_place(pipeline.output, inputs_inside(pipeline))
    notes: list[str] = []
    found = _inputs(pipeline, notes)
    notes += [*foreseen(pipeline), *_judges(pipeline), *missing_files(pipeline)]
    plan = make_plan(pipeline, found, limit=limit, done=done_files(pipeline, plan_stages(pipeline, 1, {})))
    changed = changes(pipeline, limit)
    if changed:
        touched = plan.stages[first_touched(plan.stages, [path for path, _, _ in changed])]
        notes += [f"{path}: {old!r} -> {new!r}" for path, old, new in changed]
        notes.append(f"would be redone with --from {touched.label}: everything from there on; --fresh starts over")
    return make_plan(
        pipeline, plan.files, limit=limit, done={stage.unit_label: stage.done for stage in plan.stages if stage.done}, notes=notes
    )


def _judges(pipeline: Pipeline) -> list[str]:
    """Of filters with thresholds of their own, what each is judged by."""
    if pipeline.select is None or not pipeline.select.differs:
        return []
    names = [model.called if isinstance(model, NamedModel) else model.name or model.kind for model in pipeline.filters]
    each = [f"{name} by {pipeline.select.of(name)}" for name in names]
    return [f"select: {pipeline.select.combine} of {', '.join(each)}"]


def changes(pipeline: Pipeline, limit: int | None) -> list[tuple[str, object, object]]:
    """Result-affecting settings in which the run folder differs from the pipeline; more or fewer rounds change no result."""
    before = files.get_json(files.join(pipeline.output, "plan.json"))
    if not isinstance(before, dict) or "settings" not in before:
        return []
    settings = before["settings"]
    if settings.get("name") == "{output}":  # of a version that took a name for the folder when it was the same text
        settings = {**settings, "name": before.get("output")}
    return [change for change in differences(settings, run_settings(pipeline, limit)) if change[0] != "rounds"]


def done_files(pipeline: Pipeline, stages: Sequence[PlannedStage]) -> dict[str, int]:
    """Files that are there, by unit: chunk files where there are chunks, else 1 for a step that is done."""
    done: dict[str, int] = {}
    for stage in stages:
        if stage.unit in ("pool", "candidates"):
            done[stage.unit_label] = len(files.listing(files.join(pipeline.output, stage.unit_label), "chunk-", ".parquet"))
        elif stage.name == "report":
            done[stage.unit_label] = int(files.exists(files.join(pipeline.output, "report.html")))
        else:
            mark = files.get_json(files.join(pipeline.output, "steps", stage.label.replace("/", "-") + ".json"))
            done[stage.unit_label] = int(isinstance(mark, dict) and mark.get("state") == "done")
    return done


def _inputs(pipeline: Pipeline, notes: list[str]) -> list[InputFile]:
    """The index as `scan` gives it; of a small web that is not built yet, as it will be."""
    if pipeline.read is None:
        return []
    web = files.join(pipeline.output, "miniweb", "web.parquet")
    if pipeline.miniweb is None or files.exists(web) or pipeline.read.paths != [web]:
        found = index.scan(pipeline.read, index.load(pipeline.output))
        notes += [f"{file.path} {file.problem}" for file in found if file.problem]
        return found
    notes.append("the small web is not built yet: `run` builds it; rows and chunks are as they will be, chunk ids are not")
    left, groups = pipeline.miniweb.pictures, []
    while left > 0:
        groups.append(min(left, MINIWEB_ROWS_PER_GROUP))
        left -= groups[-1]
    return [InputFile(web, 0, "not built yet", tuple(groups))]
