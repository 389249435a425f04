"""The deciding half of a round: dedup, select, write. Columns only; each step is skipped where its files are there.

Knows in which order and from what; the rules are in `capfilt.stages`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import assert_never

import yaml

from capfilt import __version__
from capfilt.config.pipeline import Pipeline
from capfilt.config.round import AnyModel, CustomModel, NamedModel, TrainedModel
from capfilt.errors import CapfiltError
from capfilt.filters.base import Embedder
from capfilt.run import files
from capfilt.run.context import Context
from capfilt.run.pairing import Pairing
from capfilt.run.scratch import local_folder
from capfilt.run.steps import content, key_of


@dataclass(frozen=True)
class Scored:
    """A round's candidates: their chunk files and those of the pool, and the key of what they were made from."""

    number: int
    candidates: tuple[str, ...]
    pool: tuple[str, ...]
    key: str
    scorer: str | None  # folder that `kind: trained` stands for
    pipeline: Pipeline  # with the models of this round
    pairing: Pairing | None = None  # how they belong together


def decide(context: Context, scored: Scored, keys: dict[str, str]) -> Iterator[str]:
    """Yields the label of each step that is done, and leaves its key in `keys`."""
    pipeline, number = context.pipeline, scored.number
    key = scored.key
    folder = f"round-{number}"

    if pipeline.dedup is not None:
        inputs = [content(path) for path in pipeline.dedup.decontaminate]
        key = key_of("dedup", key, context.plan.settings["dedup"])
        key = keys["dedup"] = context.steps.key_with(f"{folder}/dedup", key, inputs)
        done = [f"{folder}/dedup/{name}.parquet" for name in ("pairs", "contamination")]
        clear, told = [f"{folder}/dedup"], [f"{folder}/dedup/summary.json"]
        context.steps.run(f"{folder}/dedup", key, done, lambda: _dedup(context, scored), clear=clear, sealed=told, inputs=inputs)
        yield f"{folder}/dedup"

    if pipeline.select is not None:
        key = keys["select"] = key_of("select", key, context.plan.settings["select"])
        done = [f"{folder}/selection/selection.parquet", f"{folder}/selection/summary.json"]
        context.steps.run(f"{folder}/select", key, done, lambda: _select(context, scored), clear=[f"{folder}/selection"])
        yield f"{folder}/select"

    if pipeline.write is not None:
        key = keys["write"] = key_of("write", key, context.plan.settings["write"])
        done = [f"{folder}/dataset/manifest.json"]
        context.steps.run(f"{folder}/write", key, done, lambda: _write(context, scored), **_shards(pipeline, folder))
        yield f"{folder}/write"
        if pipeline.pretrain is not None and not (files.get_json(context.path(*done)) or {}).get("rows", 1):
            why = nothing_kept(context.path(folder)) or "the counts are in its selection/summary.json"
            raise CapfiltError(
                f"{folder}: expected rows to train on, found that `select` kept none: {why}; then run again with "
                f"--from {folder}/select"
            )


def nothing_kept(round_folder: str) -> str | None:
    """Why a round's selection kept nothing, and what to do; None where it kept something, or there is none."""
    summary = files.get_json(files.join(round_folder, "selection", "summary.json"))
    return summary.get("nothing_kept") if isinstance(summary, dict) else None


def _shards(pipeline: Pipeline, folder: str) -> dict[str, list[str]]:
    """What `write` leaves beside the files that its manifest names with their sha256."""
    beside = [f"{folder}/dataset/README.md"]
    if pipeline.write is not None and "parquet" in pipeline.write.formats:
        beside.append(f"{folder}/dataset/parquet/_common_metadata")
    return {"clear": [f"{folder}/dataset"], "sealed": beside}


def _dedup(context: Context, scored: Scored) -> None:
    from capfilt.stages.dedup import dedup

    config = context.pipeline.dedup
    assert config is not None
    with context.progress.stage(f"round {scored.number} dedup", 1, "") as shown:
        embedder = _embedder(scored) if config.decontaminate else None
        here = f"round-{scored.number}", "dedup"
        dedup(config, scored.candidates, str(context.scratch.path(*here)), embedder=embedder)
        context.scratch.send(*here)
        shown.advance(1)


def _embedder(scored: Scored) -> Embedder | None:
    """The round's first filter, which made the embeddings; None for a custom one that cannot embed pictures without texts."""
    from capfilt.filters import build_filter

    config = scored.pipeline.filter
    assert config is not None
    device = "cuda" if scored.pipeline.resources.filter.gpus > 0 else "cpu"
    with local_folder(scored.scorer or "") as trained:
        built = build_filter(config.each[0], trained=trained or None, device=device)
    return built if isinstance(built, Embedder) else None


def _select(context: Context, scored: Scored) -> None:
    from capfilt.stages.select import select

    pipeline = context.pipeline
    assert pipeline.select is not None
    number, scratch = f"round-{scored.number}", context.scratch
    folder = str(scratch.fetch(number, "dedup")) if pipeline.dedup is not None else None
    with context.progress.stage(f"round {scored.number} select", 1, "") as shown:
        out = str(scratch.path(number, "selection"))
        summary = select(pipeline.select, scored.candidates, folder, out, dedup=pipeline.dedup)
        scratch.send(number, "selection")
        rows = summary.get("rows") or 0
        facts = {"kept": summary.get("kept_rows", 0) / rows} if rows else {}
        shown.advance(1, **facts)


FAMILIES = {"med": "MED", "coca": "CoCa", "blip2": "BLIP-2", "clipcap": "ClipCap", "soho": "SOHO"}


def _called(model: AnyModel, role: str, context: Context, number: int) -> str:
    """The model in the words of a data card."""
    match model:
        case TrainedModel():
            told = yaml.safe_load(files.get(context.round_path(number - 1, "models", role, "architecture.yaml")) or b"")
            kind = str(told.get("kind")) if isinstance(told, dict) else "med"
            return f"{FAMILIES.get(kind, kind)}, fine-tuned by this run in round {number - 1}"
        case NamedModel(checkpoint=checkpoint):
            return f"{FAMILIES[str(getattr(model, 'kind', 'med'))]} {checkpoint}"
        case CustomModel(target=target):
            return target
        case _ as unreachable:
            assert_never(unreachable)


def _listed(models: Sequence[AnyModel], role: str, context: Context, number: int) -> str | None:
    return " and ".join(_called(model, role, context, number) for model in models) or None


def _write(context: Context, scored: Scored) -> None:
    from capfilt.stages.write import write

    config, models = context.pipeline.write, scored.pipeline
    assert config is not None
    assert context.pipeline.select is not None
    card = {
        "name": context.plan.name,
        "version": __version__,
        "round": scored.number,
        "fingerprint": context.plan.fingerprint,
        "captioner": _listed(models.captioners, "captioner", context, scored.number),
        "filter": _listed(models.filters, "filter", context, scored.number),
        "trunk": scored.pairing and scored.pairing.trunk,
        "weights": scored.pairing and scored.pairing.weights,
    }
    number, scratch = f"round-{scored.number}", context.scratch
    with context.progress.stage(f"round {scored.number} write", 1, "") as shown:
        manifest = write(
            config,
            policy=context.pipeline.select,
            selection=str(scratch.fetch(number, "selection") / "selection.parquet"),
            candidates=scored.candidates,
            pool=scored.pool,
            out=str(scratch.path(number, "dataset")),
            card=card,
        )
        scratch.send(number, "dataset")
        scratch.drop(number, "dataset")
        shown.advance(1, rows=manifest.get("rows", 0), texts=manifest.get("texts", 0))
