"""`write_report`: one HTML file about a run, its sections in the order of the line.

Puts together what the other files of this package give; each section says in a plain sentence what is missing.
"""

from importlib import resources
from pathlib import Path

from capfilt.config.machine import ReportConfig
from capfilt.errors import InputError
from capfilt.report import sections
from capfilt.report.facts import Facts, dig, gather
from capfilt.report.scan import Scan, scan
from capfilt.report.thumbs import Thumbs
from capfilt.report.words import esc
from capfilt.run import files
from capfilt.run.scratch import Scratch

# Nothing may be fetched and no script may run, whatever a web text contains.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def write_report(run_folder: Path, *, cards: int | None = None) -> Path:
    """Write `report.html` into the run's folder, whatever the run got to, and give back its path.

    Args:
        run_folder: A local run folder.
        cards: Pictures shown; 0 shows none, None as many as the run's own `report.cards`.

    Raises:
        InputError: If there is no such folder.
    """
    path = run_folder / "report.html"
    files.put(str(path), html(gather(run_folder), cards).encode())
    return path


def write_remote_report(address: str, *, cards: int | None = None) -> str:
    """As `write_report` for a run on an object store: its small files are copied, its tables read where they lie.

    Raises:
        InputError: If there is no run.
    """
    if not files.exists(files.join(address, "config.yaml")):
        raise InputError(f"expected a run; found no config.yaml at `{address}`. Name the `output` of a pipeline that was run")
    with Scratch(address) as scratch:
        for name in ("config.yaml", "plan.json"):
            scratch.fetch(name)
        for name in ("phases", "pairing"):
            for line in files.lines(address, name):  # there, each line is a file of its own
                files.append_line(str(scratch.path()), name, line)
        for number in (path.rpartition("/")[2] for path in files.listing(address, "round-")):
            for name in ("metrics.json", "selection", "dedup", "dataset/manifest.json", "training"):
                scratch.fetch(number, *name.split("/"))
            scratch.path(number).mkdir(exist_ok=True)
        for name in _named_in(gather(scratch.path()).config, address):
            scratch.fetch(*name.split("/"))
        path = files.join(address, "report.html")
        files.put(path, html(gather(scratch.path(), address), cards).encode())
    return path


def _named_in(config: dict[str, object], address: str) -> list[str]:
    """Files inside the run that its `evaluate` section names."""
    section = config.get("evaluate")
    values = [str(value) for value in section.values()] if isinstance(section, dict) else []
    inside = [value.replace("{output}", address).removeprefix(address + "/") for value in values]
    return [name for name in inside if name.startswith("miniweb/")]


def html(facts: Facts, cards: int | None) -> str:
    """The page of a run."""
    scored = facts.scored_round
    own = dig(facts.config, "report", "cards")
    shown = cards if cards is not None else own if isinstance(own, int) else ReportConfig().cards
    counted = scan(
        scored.candidates if scored else facts.pool,
        scored.selection if scored else None,
        is_candidates=scored is not None,
        policy=facts.policy,
        cards=shown,
    )
    return page(facts, counted)


def page(facts: Facts, counted: Scan) -> str:
    """The whole file as text."""
    style = resources.files("capfilt.report").joinpath("report.css").read_text(encoding="utf-8")
    parts = sections.all_sections(facts, counted, Thumbs())
    links = "".join(f'<a href="#{part.anchor}">{esc(part.link)}</a>' for part in parts)
    body = "".join(
        f'<section id="{part.anchor}"><header><h2>{esc(part.title)}</h2><p class="lead">{part.lead}</p></header>'
        f"{part.body}</section>"
        for part in parts
    )
    top, end = sections.headline(facts, counted), sections.footer(facts)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">'
        f"<title>{esc(facts.name)} · capfilt</title><style>{style}</style></head><body><main>"
        f'{top}<nav aria-label="Sections">{links}</nav>{body}{end}</main></body></html>\n'
    )
