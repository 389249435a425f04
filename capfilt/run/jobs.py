"""The jobs of a run, pool and candidates, from its settings: what decides their content, their models, the addresses to ask.

Names fingerprints and folders; starts nothing but the small web's server.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, assert_never

from capfilt.config.pipeline import Pipeline
from capfilt.config.round import NamedModel, TrainedModel
from capfilt.identity import content_hash
from capfilt.run import files
from capfilt.run.build import Job
from capfilt.run.local_executor import Executor, LocalExecutor
from capfilt.run.scratch import Scratch
from capfilt.run.steps import key_of, model_identity


def make_executor(pipeline: Pipeline) -> Executor:
    match pipeline.resources.executor:
        case "local":
            return LocalExecutor()
        case "ray":
            from capfilt.run.ray_executor import RayExecutor

            return RayExecutor(pipeline.resources, pipeline.output)
        case _ as unreachable:
            assert_never(unreachable)


def pool_job(pipeline: Pipeline, settings: Mapping[str, Any]) -> Job:
    """The pool. `settings` are the run's result settings by section (`plan.run_settings`)."""
    wanted = {name: settings.get(name) for name in ("read", "download", "screen", "miniweb")}
    wanted["read"] = {name: value for name, value in settings["read"].items() if name != "paths"}  # chunk ids hold them
    lists = pipeline.download.blocklists
    listed = [content_hash(files.get(path) or b"") for path in (*lists.domains, *lists.urls, *lists.sha256)]
    return Job("pool", pipeline, key_of("pool", wanted, *listed))


def serve(stack: ExitStack, job: Job) -> Job:
    """`job` with the addresses to connect to; the small web answers as long as `stack` is open."""
    pipeline = job.pipeline
    connect_to = dict(pipeline.download.connect_to)
    if pipeline.miniweb is not None:
        from capfilt.miniweb.server import MiniwebServer

        folder = stack.enter_context(Scratch(pipeline.output)).fetch("miniweb")
        server = stack.enter_context(MiniwebServer(pipeline.miniweb, folder, pipeline.seed))
        connect_to = {host: server.address if to == "miniweb" else to for host, to in connect_to.items()}
    return replace(job, connect_to=connect_to)


def candidates_job(pipeline: Pipeline, settings: Mapping[str, Any], number: int, pool_fingerprint: str) -> Job:
    """The candidates of round `number`, with the models of that round, which must be there."""
    models, captioner, scorer = _models(pipeline, number)
    sections: list[Any] = [settings.get(name) for name in ("caption", "filter", "seed")]
    identities = [model_identity(captioner), model_identity(scorer), *_checkpoints(models)]
    fingerprint = key_of("candidates", pool_fingerprint, number, sections, identities)
    return Job("candidates", models, fingerprint, number, captioner, scorer)


def _models(pipeline: Pipeline, number: int) -> tuple[Pipeline, str | None, str | None]:
    """The pipeline with this round's models, and the folders that `kind: trained` stands for.

    From round 2 on, published checkpoints give way to what the round before fine-tuned.
    """
    assert pipeline.caption is not None
    caption, scorer = pipeline.caption, pipeline.filter
    if number >= 2 and isinstance(caption.captioner, NamedModel):
        caption = caption.model_copy(update={"captioner": TrainedModel(kind="trained")})
    if number >= 2 and scorer is not None and isinstance(scorer.filter, NamedModel):
        scorer = scorer.model_copy(update={"filter": TrainedModel(kind="trained")})

    def folder(role: str, model: object) -> str | None:
        is_ours = isinstance(model, TrainedModel)
        return files.join(pipeline.output, f"round-{number - 1}", "models", role) if is_ours else None

    return (
        pipeline.model_copy(update={"caption": caption, "filter": scorer}),
        folder("captioner", caption.captioner),
        folder("filter", scorer.filter if scorer is not None else None),
    )


def _checkpoints(pipeline: Pipeline) -> list[str | None]:
    named = [pipeline.caption and pipeline.caption.captioner, pipeline.filter and pipeline.filter.filter]
    return [model_identity(model.checkpoint) if isinstance(model, NamedModel) else None for model in named]
