"""The training half of a round: pretrain, finetune, evaluate; each step is skipped where its files are there.

Knows which data and models go in and where the new ones go; how they are trained is in `capfilt.training`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, assert_never

from capfilt.config.pipeline import Pipeline
from capfilt.config.select import SelectConfig
from capfilt.run import files
from capfilt.run.context import Context
from capfilt.run.decide import Scored
from capfilt.run.jobs import models_of_round
from capfilt.run.scratch import tree
from capfilt.run.steps import content, key_of, model_identity
from capfilt.sources.scan import content_of

if TYPE_CHECKING:
    from capfilt.training.workers import Launch

MODEL_FILES = ("model.safetensors", "architecture.yaml", "tokenizer.json")


def train(
    context: Context,
    number: int,
    *,
    web: tuple[str, ...],
    web_kind: Literal["pool", "dataset"],
    web_key: str,
    scored: Scored | None,
    keys: dict[str, str],
) -> Iterator[str]:
    """Yields the label of each step that is done.

    Args:
        web: Files of web pairs: the raw pool's in round 0, the round's data set afterwards.
        web_key: Key of what they were made from.
        scored: The round's candidates, for `evaluate`; None in round 0.
        keys: Of the round's other steps.
    """
    pipeline, settings = context.pipeline, context.plan.settings
    folder = f"round-{number}"
    made = {one.model: one.training for one in pipeline.pretrainings}
    if made:
        # Where all learn from shards of their own, the round's pairs are not what they learn from.
        of_web = web_key if any(one.web is None for one in pipeline.pretrainings) else ""
        shards = [content_of(one.web) for one in pipeline.pretrainings if one.web is not None]
        key = key_of("pretrain", of_web, settings["pretrain"], pipeline.seed, _learnt_from(pipeline))
        key = keys["pretrain"] = context.steps.key_with(f"{folder}/pretrain", key, shards)
        _model_step(context, number, "pretrain", key, made, lambda: _pretrain(context, number, web, web_kind), inputs=shards)
        yield f"{folder}/pretrain"

    if pipeline.finetune is not None:
        prompt = None if pipeline.caption is None else pipeline.caption.prompt
        starts = list(dict.fromkeys(pipeline.start_of(role) for role in pipeline.finetune.models))
        made_of = [keys["pretrain"] if start in made else model_identity(start) for start in starts]
        human = pipeline.finetune.human
        learnt = [None if human is None else _identity(human), *_stored(pipeline)]
        keys["finetune"] = key_of("finetune", made_of, settings["finetune"], prompt, learnt)
        own: dict[str, str] = {model: model for model in pipeline.finetune.models}
        _model_step(context, number, "finetune", keys["finetune"], own, lambda: _finetune(context, number))
        yield f"{folder}/finetune"

    if pipeline.evaluate is not None:
        made_from = [keys.get(name) for name in ("pretrain", "finetune", "select")]
        heldout, truth = pipeline.evaluate.heldout, pipeline.evaluate.truth
        read = [content(heldout), None if truth is None else content(truth)]
        key = key_of("evaluate", made_from, scored and scored.key, settings["evaluate"], pipeline.seed)
        key = keys["evaluate"] = context.steps.key_with(f"{folder}/evaluate", key, read)
        done = [f"{folder}/metrics.json"]
        context.steps.run(f"{folder}/evaluate", key, done, lambda: _evaluate(context, number, scored), inputs=read)
        yield f"{folder}/evaluate"


def _model_step(
    context: Context,
    number: int,
    name: str,
    key: str,
    models: Mapping[str, str],
    make: Callable[[], None],
    inputs: Sequence[str | None] = (),
) -> None:
    """`models`: each with the name of its training. `inputs`: as `Steps.run` is told."""
    folder = f"round-{number}"
    done = [f"{folder}/models/{model}/{file}" for model in models for file in MODEL_FILES]
    clear = [f"{folder}/models/{model}" for model in models] + [f"{folder}/training/{part}" for part in models.values()]
    if name == "finetune" and models_of_round(context.pipeline, number + 1).has_round_0:
        # The next round's texts and scores come from the models that give way here. Without this line the run would refuse
        # its own models as changed ones.
        clear += [f"round-{number + 1}/candidates", f"steps/round-{number + 1}-candidates.json"]
    beside: list[str] = []

    def made() -> None:
        make()
        # A language model that was taken along, its tokenizer's files: known when they are there.
        begin = len(context.pipeline.output.rstrip("/")) + 1
        paths = (path[begin:] for model in models for path in tree(context.path(folder, "models", model)))
        beside.extend(path for path in paths if path not in done)

    context.steps.run(f"{folder}/{name}", key, done, made, clear=clear, sealed=beside, inputs=inputs)


def _pretrain(context: Context, number: int, web: tuple[str, ...], kind: Literal["pool", "dataset"]) -> None:
    from capfilt.training import WebPairs, pretrain

    pipeline = context.pipeline
    names = [one.model for one in pipeline.pretrainings]
    for config in pipeline.pretrainings:
        begins: dict[str, Any] = {
            which: context.scratch.fetch(f"round-{number}", "models", source)
            for which, source in (("image", config.init.image), ("text", config.init.text))
            if source in names and source is not None
        }
        with _training(context, number, config.training, config.model, config.steps) as (out, work, on_step):
            pretrain(
                config,
                web=WebPairs(files=web, kind=kind),
                out=out,
                work=work,
                # The same in every round: the new model starts from the weights that round 0 started from, and sees other pairs.
                seed=pipeline.seed,
                device=_device(context),
                **_workers(context),
                prompt=_prompt(context),
                **begins,
                on_step=on_step,
            )


def _finetune(context: Context, number: int) -> None:
    from capfilt.training import finetune_captioner, finetune_filter

    pipeline, config = context.pipeline, context.pipeline.finetune
    assert config is not None
    names = [one.model for one in pipeline.pretrainings]

    def start_of(role: Literal["captioner", "filter"]) -> Path | str:
        start = pipeline.start_of(role)
        return context.scratch.fetch(f"round-{number}", "models", start) if start in names else start

    common: dict[str, Any] = {
        "human": config.human,
        "image_px": config.image_px,
        "trunk": config.trunk,
        "seed": pipeline.seed,
        "device": _device(context),
        **_workers(context),
    }
    if config.captioner is not None:
        with _training(context, number, "captioner", "captioner", config.captioner.steps) as (out, work, on_step):
            start = start_of("captioner")
            finetune_captioner(
                config.captioner, start=start, out=out, work=work, prompt=_prompt(context), on_step=on_step, **common
            )
    if config.filter is not None:
        with _training(context, number, "filter", "filter", config.filter.steps) as (out, work, on_step):
            finetune_filter(config.filter, start=start_of("filter"), out=out, work=work, on_step=on_step, **common)


def _evaluate(context: Context, number: int, scored: Scored | None) -> None:
    from capfilt.evaluation import evaluate

    pipeline = context.pipeline
    assert pipeline.evaluate is not None
    selected = scored is not None and pipeline.select is not None
    with context.progress.stage(f"round {number} evaluate", 1, "") as shown:
        measured = evaluate(
            pipeline.evaluate,
            models={name: context.scratch.fetch(f"round-{number}", "models", name) for name in pipeline.models},
            candidates=() if scored is None else scored.candidates,
            selection=context.round_path(number, "selection", "selection.parquet") if selected else None,
            round_number=number,
            seed=pipeline.seed,
            device=_device(context),
            prompt=_prompt(context),
            policy=pipeline.select or SelectConfig(),
        )
        files.put_json(context.round_path(number, "metrics.json"), measured)
        value = (measured.get("primary") or {}).get("value")
        facts: dict[str, float] = {} if value is None else {"primary": float(value)}
        shown.advance(1, **facts)


@contextmanager
def _training(
    context: Context, number: int, name: str, model: str, steps: int
) -> Iterator[tuple[Path, Path, Callable[[Any], None]]]:
    """One training on the display: where its model goes, where its state lies, and what it is to tell of its steps.

    On an object store both folders are on this machine, and what is new in them is sent as it comes: a new checkpoint at the next
    report, the model at the end.
    """
    scratch, out, work = context.scratch, (f"round-{number}", "models", model), (f"round-{number}", "training", name)
    if all(files.exists(context.path(*out, file)) for file in MODEL_FILES):
        scratch.fetch(*out)
    folder = scratch.fetch(*work)
    sent: list[str] = []
    with context.progress.stage(f"round {number} {name}", steps, "steps") as shown:
        last = 0

        def on_step(report: Any) -> None:  # a resumed training begins at its checkpoint's step
            nonlocal last, sent
            shown.advance(report.step - last, loss=float(report.loss))
            last = report.step
            known = files.listing(str(folder / "checkpoint"), suffix=".pt") if scratch.is_remote else []
            if known != sent:
                scratch.send(*work, "checkpoint")
                scratch.send(*work, "log.jsonl")
                sent = known

        yield scratch.path(*out), folder, on_step
    # What is left where the model was saved, and the driver killed before it could tidy up.
    files.remove(str(folder / "checkpoint"))
    for path in files.listing(str(folder), suffix=".pictures"):
        files.remove(path)
    scratch.send(*out)
    scratch.send(*work)


def _workers(context: Context) -> dict[str, Any]:
    """How many train together, and how they are started: as processes of this machine, or through Ray where chunks are too."""
    resources = context.pipeline.resources
    if resources.train.workers == 1:
        return {}
    launch: Launch
    match resources.executor:
        case "local":
            from capfilt.training.workers import spawn as launch
        case "ray":
            from capfilt.run.ray_train import RayLaunch

            launch = RayLaunch(resources, context.pipeline.output)
        case _ as unreachable:
            assert_never(unreachable)
    return {"workers": resources.train.workers, "launch": launch}


def _prompt(context: Context) -> str:
    return "a picture of " if context.pipeline.caption is None else context.pipeline.caption.prompt


def _device(context: Context) -> str:
    return "cuda" if context.pipeline.resources.train.gpus > 0 else "cpu"


def _learnt_from(pipeline: Pipeline) -> list[Any]:
    """What else `pretrain` reads: human and labelled pairs, models of the user's own."""
    names = [one.model for one in pipeline.pretrainings]
    found: list[Any] = []
    for one in pipeline.pretrainings:
        found.append(None if one.human is None else _identity(one.human))
        found.append(None if one.labelled is None else _identity(one.labelled.path))
        found += [None if source in names else model_identity(source) for source in (one.init.image, one.init.text)]
    return found


def _stored(pipeline: Pipeline) -> list[Any]:
    """Of the stored embeddings that a captioner learns from, and of the model that made them."""
    captioner = pipeline.finetune.captioner if pipeline.finetune is not None else None
    if captioner is None or captioner.embeddings is None:
        return []
    from capfilt.training.embeddings import embedding_files

    return [*(_identity(path) for path in embedding_files(captioner.embeddings)), model_identity(captioner.embeddings.image)]


def _identity(path: str) -> list[Any]:
    """Size and bytes of a file of pairs, so that other pairs under the same name are noticed."""
    from hashlib import blake2b

    data = files.get(path) or b""
    return [len(data), blake2b(data, digest_size=8).hexdigest()]
