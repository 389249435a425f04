"""`write_report`: one HTML file about a run, its sections in the order of the line.

Puts together what the other files of this package give; each section says in a plain sentence what is missing.
"""

import os
from importlib import resources
from pathlib import Path

from capfilt.report import sections
from capfilt.report.facts import Facts, gather
from capfilt.report.scan import Scan, scan
from capfilt.report.thumbs import Thumbs
from capfilt.report.words import esc

# Nothing may be fetched and no script may run, whatever a web text contains.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def write_report(run_folder: Path, *, cards: int = 60) -> Path:
    """Write `report.html` into the run's folder, whatever the run got to, and give back its path.

    Args:
        run_folder: A local run folder.
        cards: Pictures shown; 0 shows none.

    Raises:
        InputError: If there is no such folder.
    """
    facts = gather(run_folder)
    scored = facts.scored_round
    counted = scan(
        scored.candidates if scored else facts.pool,
        scored.selection if scored else None,
        is_candidates=scored is not None,
        min_itm=facts.min_itm,
        cards=cards,
    )
    path = run_folder / "report.html"
    beside = run_folder / f".report.{os.getpid()}.html"
    beside.write_text(page(facts, counted), encoding="utf-8")
    beside.replace(path)
    return path


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
