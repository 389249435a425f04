"""The jobs of a run, pool and candidates, from its settings: what decides their content, their models, the addresses to ask.

Names fingerprints and folders; starts nothing but the small web's server.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, assert_never

from capfilt.config.pipeline import Pipeline
from capfilt.config.round import AnyModel, NamedModel, TrainedModel
from capfilt.identity import content_hash
from capfilt.run import files
from capfilt.run.build import Job
from capfilt.run.local_executor import Executor, LocalExecutor
from capfilt.run.scratch import Scratch
from capfilt.run.steps import key_of, model_identity


def make_executor(pipeline: Pipeline, note: Callable[[str], None]) -> Executor:
    match pipeline.resources.executor:
        case "local":
            return LocalExecutor()
        case "ray":
            from capfilt.run.ray_executor import RayExecutor

            return RayExecutor(pipeline.resources, pipeline.output, note)
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
    models = models_of_round(pipeline, number)

    def trained(role: str, of_role: Sequence[AnyModel]) -> str | None:
        is_ours = any(isinstance(model, TrainedModel) for model in of_role)
        return files.join(pipeline.output, f"round-{number - 1}", "models", role) if is_ours else None

    captioner, scorer = trained("captioner", models.captioners), trained("filter", models.filters)
    sections: list[Any] = [settings.get(name) for name in ("caption", "filter", "seed")]
    identities = [model_identity(captioner), model_identity(scorer), *_checkpoints(models)]
    fingerprint = key_of("candidates", pool_fingerprint, number, sections, identities)
    return Job("candidates", models, fingerprint, number, captioner, scorer)


def models_of_round(pipeline: Pipeline, number: int) -> Pipeline:
    """The pipeline with this round's models.

    From round 2 on, a published checkpoint gives way to what the round before fine-tuned for its role; of a list, the first
    published one, unless one of the list is trained anyway.
    """
    made = pipeline.finetune.models if number > 1 and pipeline.finetune is not None else ()
    renewed: dict[str, Any] = {}
    if pipeline.caption is not None and "captioner" in made:
        renewed["caption"] = pipeline.caption.model_copy(update={"captioner": _renewed(pipeline.captioners)})
    if pipeline.filter is not None and "filter" in made:
        renewed["filter"] = pipeline.filter.model_copy(update={"filter": _renewed(pipeline.filters)})
    return pipeline.model_copy(update=renewed)


def _renewed(models: Sequence[AnyModel]) -> list[AnyModel]:
    """With what this run has trained in the place of the first published checkpoint."""
    at = next((at for at, model in enumerate(models) if isinstance(model, NamedModel)), None)
    if at is None or any(isinstance(model, TrainedModel) for model in models):
        return list(models)
    return [*models[:at], TrainedModel(kind="trained", name=models[at].name), *models[at + 1 :]]


def _checkpoints(pipeline: Pipeline) -> list[str | None]:
    named = (*pipeline.captioners, *pipeline.filters)
    return [model_identity(model.checkpoint) if isinstance(model, NamedModel) else None for model in named]
