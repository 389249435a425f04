"""The data card, README.md of a data set: what it is, how many, what was left out and why, what to mind.

Says what it is told and holds no date, so the same data set has the same card.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from capfilt.schema import REASONS

COLUMN_MEANING = {
    "uid": "32 hex digits, a hash of address and web text, or the input's own",
    "key": "shard number and row number",
    "url": "where the picture was",
    "image": "encoded bytes (JPEG)",
    "width": "pixels of `image`",
    "height": "pixels of `image`",
    "original_width": "pixels as served",
    "original_height": "pixels as served",
    "sha256": "hash of the bytes as served",
    "text": "the web text as found, kept or not",
    "caption": "the chosen text: the kept one with the highest score",
    "origin": "web or synthetic: where `caption` comes from",
    "all_captions": "every kept text",
    "all_origins": "where each of `all_captions` comes from",
    "all_itm": "probability of a match of each of `all_captions`, several filters combined",
    "all_itc": "cosine of each of `all_captions` with the picture, several filters combined",
    "upstream": "columns of the input, carried along",
}


SAME = "THE SAME WEIGHTS: the filter overlooks the errors of its own captioner (BLIP Table 4: 8 % instead of 25 % noise found)"
SCORE = {"itm": "ITM", "itc": "cosine"}
KINSHIP = {
    ("shared", "separate"): "separate fine-tunes on one image encoder",
    ("shared", "shared"): SAME,
    ("separate", "shared"): SAME,  # of a family whose encoders are not compared
}
"""What there is to say about the image encoders and the whole weights of captioner and filter."""


def data_card(
    card: Mapping[str, Any],
    summary: Mapping[str, Any],
    schema: pa.Schema,
    *,
    rows: int,
    texts: int,
    formats: Sequence[str],
    shards: int,
) -> str:
    """Markdown with the front matter that dataset hubs read.

    `card` may hold name, version, fingerprint, round, captioner, filter, trunk, weights, licence and funnel ({what happened:
    rows}); `summary` is the selection's summary.json. What is missing is left out.
    """
    name = str(card.get("name", "data set"))
    parts = [
        _front_matter(name, formats),
        f"# {name}\n\nPairs of web pictures and texts, cleaned and re-captioned by capfilt (BLIP's CapFilt). "
        "A filter scored every web text and every synthetic text; the texts below were believed.",
        _table("What", "Count", {"rows (pictures)": rows, "kept texts": texts, "shards per format": shards}),
        _made(card, summary),
        _funnel(card.get("funnel"), summary, rows),
        _texts(summary),
        _mind(card),
        _table("Column", "Meaning", {f"`{field.name}`": COLUMN_MEANING.get(field.name, str(field.type)) for field in schema}),
        _reading(formats),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front_matter(name: str, formats: Sequence[str]) -> str:
    lines = ["---", f"pretty_name: {_quoted(name)}", "license: other", "task_categories: [image-to-text]"]
    if "parquet" in formats:
        lines += ["configs:", "- config_name: default", "  data_files: parquet/*.parquet"]
    return "\n".join([*lines, "---"])


def _made(card: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    said = {
        "fingerprint of the run": card.get("fingerprint"),
        "round": card.get("round"),
        "captioner": card.get("captioner"),
        "filter": card.get("filter"),
        "captioner and filter": KINSHIP.get((str(card.get("trunk")), str(card.get("weights")))),
        "policy": summary.get("policy"),
        **_believed(summary),
        "several filters are combined by": summary.get("combine"),
        "pictures are duplicates at cosine >=": summary.get("min_cosine"),
        "capfilt": card.get("version"),
    }
    known = {key: value for key, value in said.items() if value is not None}
    return "## How it was made\n\n" + _table("Setting", "Value", known) if known else ""


def _believed(summary: Mapping[str, Any]) -> dict[str, Any]:
    """When a text is believed; of filters with thresholds of their own, by each."""
    if summary.get("score") != "relative":
        return {f"a text is believed at {SCORE.get(str(summary.get('score')), 'score')} >=": summary.get("threshold")}
    return {
        f"{name} believes a text at {SCORE.get(str(own.get('score')), 'score')} >=": own.get("threshold")
        for name, own in summary.get("filters", {}).items()
    }


def _funnel(funnel: Any, summary: Mapping[str, Any], rows: int) -> str:
    steps: dict[str, Any] = {str(key): value for key, value in funnel.items()} if isinstance(funnel, Mapping) else {}
    if summary:
        steps |= {
            "rows of the input": summary["rows"],
            "healthy pictures": summary["healthy_rows"],
            "given up as duplicates": summary["duplicates"],
            "left out as evaluation pictures": summary["contaminated"],
        }
    return "## Funnel\n\n" + _table("Step", "Rows", {**steps, "written": rows}) if steps else ""


def _texts(summary: Mapping[str, Any]) -> str:
    if not summary:
        return ""
    lines = ["## Texts", "", "| Origin | Texts | Kept | Noise ratio | Not kept because |", "|---|---|---|---|---|"]
    for origin, facts in summary["texts"].items():
        why = ", ".join(f"{REASONS[code]}: {count:,}" for code, count in facts["reasons"].items() if code != "kept")
        noise = summary["noise_ratio"][origin]
        lines.append(
            f"| {origin} | {facts['count']:,} | {facts['kept']:,} | {'–' if noise is None else f'{noise:.1%}'} | {why or '–'} |"
        )
    lines += ["", "The noise ratio is the share of scored texts that the filter rejects."]
    return "\n".join(lines)


def _mind(card: Mapping[str, Any]) -> str:
    licence = card.get("licence", "Each picture and each web text belongs to its owner; this data set grants no licence to them.")
    return (
        f"## What to mind\n\n* {licence}\n"
        "* Hosts that opted out when the pictures were fetched (robots.txt, X-Robots-Tag) are not in it, where the run "
        "respected them; an owner may ask later: rows can be found by `url` and `sha256`.\n"
        "* Synthetic texts are a model's. The filter overlooks errors, and it shares the blind spots of what it was trained on.\n"
        "* Nobody looked at every picture: web pictures may be offensive, private or wrong."
    )


def _reading(formats: Sequence[str]) -> str:
    ways = {
        "parquet": "* Parquet: `parquet/*.parquet`, one row per picture; `parquet/_common_metadata` holds the schema.",
        "webdataset": "* WebDataset: `webdataset/*.tar` with KEY.jpg, KEY.txt (`caption`) and KEY.json (the other columns); "
        "beside each shard its columns without pictures as Parquet.",
    }
    return (
        "## Reading\n\n"
        + "\n".join(ways[form] for form in formats)
        + "\n* `manifest.json` holds every file's sha256 and number of rows."
    )


def _table(left: str, right: str, entries: Mapping[str, Any]) -> str:
    return "\n".join([f"| {left} | {right} |", "|---|---|", *(f"| {key} | {_cell(value)} |" for key, value in entries.items())])


def _cell(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value).replace("|", "\\|").replace("\n", " ")


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
