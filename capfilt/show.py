"""What the commands print: plan, selection summary and a pair's journey as tables and lines.

Shows what it is given; computes nothing and opens no file.
"""

from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from capfilt.plan import Plan

if TYPE_CHECKING:
    from capfilt.run.bill import Bill
    from capfilt.run.verify import Verified


def _table(*columns: str) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _console() -> Console:
    console = Console(highlight=False, markup=False, emoji=False)
    # Beyond a terminal, lines are for programs and must not be folded at 80 columns.
    return console if console.is_terminal else Console(highlight=False, markup=False, emoji=False, width=200)


def _harmless(text: str) -> str:
    """A stranger's text without what a terminal would take for orders."""
    return "".join(sign if sign.isprintable() or sign == "\n" else "\N{REPLACEMENT CHARACTER}" for sign in text)


def show_plan(plan: Plan) -> None:
    """Size and fingerprint, then stages with what is done, columns, resources and notes."""
    console = _console()
    console.print(f"{plan.name} -> {plan.output}   fingerprint {plan.fingerprint}")
    console.print(f"{plan.rows:,} rows in {len(plan.files):,} file(s), {len(plan.chunks):,} chunks")
    stages = _table("stage", "reads", "writes", "done")
    for stage in plan.stages:
        stages.add_row(stage.label, stage.reads, stage.writes, f"{stage.done:,} of {stage.total:,}")
    columns = _table("column", "in the input")
    for ours, theirs in plan.columns.items():
        columns.add_row(ours, theirs)
    resources = _table("resource", "value")
    for name, value in plan.resources.items():
        told = ", ".join(f"{key} {inner}" for key, inner in value.items()) if isinstance(value, dict) else str(value)
        resources.add_row(name, told)
    for table in (stages, columns, resources):
        console.print(table)
    for note in plan.notes:
        console.print(note)


def show_bill(bill: "Bill | None", command: str) -> None:
    """What the run will cost and give, or how to find out."""
    console = _console()
    if bill is None:
        console.print(f"time, disk and yield: not known yet. A trial measures them: {command}", soft_wrap=True)
        return
    if bill.trial_rows >= bill.rows:
        console.print(f"measured on the {bill.trial_rows:,} rows of {bill.trial}")
    else:
        console.print(f"estimate for {bill.rows:,} rows, from the {bill.trial_rows:,} of {bill.trial} on the machine it ran on")
    costs = _table("phase", "rows/s", "time", "GPU hours", "disk")
    for cost in bill.costs:
        gpu = "" if cost.gpu_hours is None else f"{cost.gpu_hours:,.2f}"
        disk = f"{cost.disk_bytes / 1e9:,.2f} GB" if cost.disk_bytes else ""
        time = f"{cost.hours:,.1f} h" if cost.hours >= 2 else f"{cost.hours * 60:,.1f} min"
        costs.add_row(cost.phase, f"{cost.rows_per_s:,.1f}", time, gpu, disk)
    console.print(costs)
    if bill.kept is not None:
        share, low, high = bill.kept
        likely = f"{low * bill.rows:,.0f} to {high * bill.rows:,.0f} rows"
        console.print(f"kept: {share:.1%} of the rows ({low:.1%} to {high:.1%} by chance alone), so {likely} in the data set")
    console.print(f"bottleneck: {bill.slowest.phase}. Training takes a number of steps, whatever the rows: it is not in here")


def show_summary(name: str, summary: dict[str, Any]) -> None:
    """The summary of a selection, as `select` gives it."""
    console = _console()
    console.print(f"view {name}: {summary['kept_rows']:,} of {summary['rows']:,} rows and {summary['kept_texts']:,} texts kept")
    texts = _table("texts", "count", "kept", "noise ratio", "why not")
    for origin, counted in summary["texts"].items():
        noise = summary["noise_ratio"].get(origin)
        why = ", ".join(f"{code} {count:,}" for code, count in counted["reasons"].items() if code != "kept")
        texts.add_row(origin, f"{counted['count']:,}", f"{counted['kept']:,}", "" if noise is None else f"{noise:.1%}", why)
    console.print(texts)
    if "filters" in summary:
        filters = _table("filter", "judged by", "scored", "noise ratio")
        for own_name, own in summary["filters"].items():
            noise = own["noise_ratio"]
            judged = f"{own['score'].upper()} {own['threshold']:g}"
            filters.add_row(own_name, judged, f"{own['scored']:,}", "" if noise is None else f"{noise:.1%}")
        console.print(filters)
    if "nothing_kept" in summary:
        console.print(f"nothing is kept: {summary['nothing_kept']}", soft_wrap=True)


def show_verified(found: "Verified") -> None:
    """Each difference of a `capfilt verify`, what mends them, then what was looked at."""
    console = _console()
    if found.differences:
        advice = {text: number for number, text in enumerate(dict.fromkeys(each.advice for each in found.differences), 1)}
        table = _table("file", "expected", "found", "mend")
        for each in found.differences:
            table.add_row(each.path, each.expected, each.found, f"({advice[each.advice]})")
        console.print(table)
        for text, number in advice.items():
            console.print(f"({number}) {text}", soft_wrap=True)  # a command is to be copied whole
    for note in found.notes:
        console.print(note)
    console.print(
        f"{found.output}: {found.files:,} files read, {found.rows:,} rows made again, {len(found.differences):,} difference(s)"
    )


def show_journey(row: dict[str, Any]) -> None:
    """One row as `capfilt.run.explain.explain` gives it: the pool's columns, then each round."""
    console = _console()
    pool = _table("pool", "")
    for name, value in row.items():
        if name != "rounds" and value is not None:
            pool.add_row(name, _plain(value))
    console.print(pool)
    if not row["rounds"]:
        console.print("no round has worked on it")
    for story in row["rounds"]:
        error = f" ({story['error']})" if story.get("error") else ""
        console.print(f"round {story['round']}: {story['status']}{error}")
        captions = _table("by", "text", "ITM", "ITC", "rule", "error", "fate")
        for caption in story["captions"]:
            captions.add_row(
                caption["captioner"] or caption["origin"],
                _harmless(caption["text"] or ""),
                *(_scores(caption["scores"] or [], kind) for kind in ("itm", "itc")),
                caption["rule"] or "",
                caption["error"] or "",
                caption.get("reason", "not decided"),
            )
        console.print(captions)
        for line in _row_facts(story):
            console.print(f"  {line}")


def _scores(scores: list[dict[str, Any]], kind: str) -> str:
    """Each filter's, by its name where there are several."""
    told = [
        (f"{score['filter']} " if len(scores) > 1 else "") + f"{score[kind]:.3f}" for score in scores if score[kind] is not None
    ]
    return "\n".join(told)


def _row_facts(story: dict[str, Any]) -> list[str]:
    if "survivor" not in story:
        return ["no selection yet"]
    lines = _policy(story["judged"])
    if len(story["group_members"]) > 1:
        fate = "survives" if story["survivor"] else "gives way"
        lines.append(f"duplicate: {fate} in a group of {len(story['group_members'])} ({', '.join(story['group_members'][:8])})")
    for pair in story["neighbours"][:5]:
        lines.append(f"neighbour {pair['row_id']}: {pair['kind']}, cosine {pair['cosine']:.4f}")
    if story["contaminated_by"]:
        lines.append(f"in an evaluation set: {story['contaminated_by']}")
    place = story["dataset"]
    lines.append(f"written: key {place['key']} in {', '.join(place['files'])}" if place else "not written")
    return lines


def _policy(judged: dict[str, Any]) -> list[str]:
    if not judged:
        return []
    if judged["score"] == "relative":
        each = ", ".join(f"{name} {own['score'].upper()} of {own['threshold']:g}" for name, own in judged["filters"].items())
        return [f"policy {judged['policy']}, {judged['combine']} of the filters, each by its own threshold: {each}"]
    how = f" by {judged['combine']}" if "combine" in judged else ""
    return [f"policy {judged['policy']}: {judged['score'].upper()} of {judged['threshold']:g} or more passes{how}"]


def _plain(value: Any) -> str:
    return _harmless(", ".join(f"{key} {inner}" for key, inner in value.items()) if isinstance(value, dict) else str(value))


def show_measured(found: dict[str, Any]) -> None:
    """What `capfilt evaluate` measured: a row per measure."""
    console = _console()
    console.print(f"{found['family']} {found['model']}")
    table = _table("task", "measure", "value", "95 % interval", "blind", "rows")
    for name, task in found["tasks"].items():
        for measure, value in task.items():
            if not isinstance(value, dict) or "interval" not in value:
                continue
            low, high = value["interval"]
            blind = value.get("blind", value.get("majority", task.get("majority")))
            told = "" if blind is None else f"{blind:.3f}"
            table.add_row(name, measure, f"{value['value']:.3f}", f"{low:.3f} to {high:.3f}", told, f"{task['n']:,}")
    console.print(table)
