"""What can be known to fail before the first row is read is refused then: GPUs, weights, pairs (the run folder: run/place.py).

Starts no work and writes nothing; loads torch only where a GPU or a checkpoint is asked for.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from capfilt.config.architectures import load_architecture
from capfilt.config.find import find_yaml
from capfilt.config.pipeline import Pipeline
from capfilt.config.round import AnyModel, CocaModel, NamedModel, SohoModel, TrainedModel
from capfilt.config.train import ROLES, OptimConfig, not_its_matching
from capfilt.errors import ConfigError, InputError
from capfilt.plan import PlannedStage
from capfilt.run import files
from capfilt.run.build import check_names
from capfilt.run.custom import check_custom, compares_bytes_alone
from capfilt.run.decide import FAMILIES
from capfilt.run.jobs import models_of_round
from capfilt.run.pairing import check_checkpoints
from capfilt.run.trainings import check_trainings
from capfilt.schema import misfit_of_pairs

if TYPE_CHECKING:
    from capfilt.captioners import Captioner
    from capfilt.filters import Filter

SCORES = {"coca": CocaModel.scores, "soho": SohoModel.scores}
MODEL_STAGES = ("caption", "filter")
TRAINING_STAGES = ("pretrain", "finetune", "evaluate")


def check_means(pipeline: Pipeline, stages: Sequence[PlannedStage]) -> list[str]:
    """Whether GPUs, weights and files of pairs that the stages still to be done need are there.

    Returns:
        Lines for people: what will be done less well than they may think.

    Raises:
        ConfigError: If a stage asks for GPUs that this machine has not, or more actors download than one host may be asked by;
            for a custom model that cannot be imported, or a training that cannot be right.
        CheckpointError: If a checkpoint is missing or does not fit its architecture.
        InputError: If a file of pairs is missing, or its columns are no pictures and texts.
    """
    ahead = {stage.name for stage in stages if stage.done < stage.total}
    if "download" in ahead:
        check_connections(pipeline)
    _check_matching(pipeline, ahead)
    check_trainings(pipeline, ahead)
    _check_files(pipeline, ahead)
    _check_gpus(pipeline, ahead)
    _check_weights(pipeline, ahead)
    _check_scores(pipeline, ahead)
    _check_retrieval(pipeline, ahead)
    return compares_bytes_alone(pipeline) if "dedup" in ahead else []


def check_connections(pipeline: Pipeline) -> None:
    """`download.per_host` is a promise to the hosts: it cannot be shared by more actors than it has connections.

    Raises:
        ConfigError: If it would have to be.
    """
    actors, per_host = pipeline.resources.download.actors, pipeline.download.per_host
    is_fetching = pipeline.read is not None and pipeline.read.kind == "url_list"
    if is_fetching and pipeline.resources.executor == "ray" and actors > per_host:
        raise ConfigError(
            f"resources.download.actors: expected at most download.per_host, {per_host}, as each may connect to the same host, "
            f"found {actors}. Lower it and raise resources.download.threads, or raise download.per_host"
        )


def _check_files(pipeline: Pipeline, ahead: set[str]) -> None:
    for setting, path, columns in _named_files(pipeline, ahead):
        if not files.exists(path):
            raise InputError(f"{setting}: expected a file, found none at `{path}`. Correct the path")
        found = _schema_of(path)
        if found is None and columns:
            raise InputError(f"{setting}: expected a Parquet file of pairs, found something else at `{path}`. Name another file")
        lacking = sorted(set(columns) - set(found.names if found is not None else ()))
        if lacking:
            raise InputError(
                f"{setting}: expected the columns {', '.join(columns)} in `{path}`, found no {', '.join(lacking)}. Name a "
                "file of pairs (docs/schema.md, Pairs)"
            )
        misfit = misfit_of_pairs(found, columns) if found is not None else None
        if misfit is not None:
            raise InputError(f"{setting}: {misfit} of `{path}`. Write it so, or name another file (docs/schema.md, Pairs)")


def missing_files(pipeline: Pipeline) -> list[str]:
    """Lines for a plan: files on this machine that the run will refuse to start without."""
    named = _named_files(pipeline, {"dedup", *TRAINING_STAGES})
    return [f"NOT THERE: {setting}, {path}" for setting, path, _ in named if not files.is_remote(path) and not files.exists(path)]


def _schema_of(path: str) -> pa.Schema | None:
    """None where it is no Parquet file."""
    try:
        with files.open_file(path) as file:
            return pq.read_schema(file)
    except (pa.ArrowInvalid, OSError):
        return None


def _named_files(pipeline: Pipeline, ahead: set[str]) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Setting, path and the columns that are read, of what the user brings; the run's own files are not there yet."""
    own = pipeline.output.rstrip("/") + "/"
    yield from (named for named in _all_named_files(pipeline, ahead) if not named[1].startswith(own))


def _all_named_files(pipeline: Pipeline, ahead: set[str]) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    pairs, keyed = ("image", "captions"), ("key", "image", "captions")
    if pipeline.dedup is not None and "dedup" in ahead:
        yield from ((f"dedup.decontaminate.{i}", path, keyed) for i, path in enumerate(pipeline.dedup.decontaminate))
    for one in pipeline.pretrainings if "pretrain" in ahead else ():
        section = "pretrain" if one.name is None else f"pretrain ({one.name})"
        if one.human is not None:
            yield f"{section}.human", one.human, pairs
        if one.labelled is not None:
            yield f"{section}.labelled.path", one.labelled.path, ("image", one.labelled.column)
    if pipeline.finetune is not None and pipeline.finetune.human is not None and "finetune" in ahead:
        yield "finetune.human", pipeline.finetune.human, pairs
    if pipeline.evaluate is not None and "evaluate" in ahead:
        yield "evaluate.heldout", pipeline.evaluate.heldout, keyed
        if pipeline.evaluate.truth is not None:
            yield "evaluate.truth", pipeline.evaluate.truth, ()


def _check_gpus(pipeline: Pipeline, ahead: set[str]) -> None:
    """What runs in this process or in a Ray that is started here must find its GPUs here; a cluster knows its own."""
    resources = pipeline.resources
    here = resources.executor == "local" or resources.ray.address == "local"
    asked = {
        f"resources.{name}.gpus": getattr(resources, name).gpus * getattr(resources, name).actors
        for name in MODEL_STAGES
        if here and (name in ahead or (name == "filter" and "dedup" in ahead))
    }
    if ahead & set(TRAINING_STAGES):
        workers, is_training = resources.train.workers, bool(ahead & {"pretrain", "finetune"})
        if here or workers == 1 or "evaluate" in ahead:  # else the workers' own nodes have them
            asked["resources.train.gpus"] = resources.train.gpus * (workers if here and is_training else 1)
        if not here and workers > 1 and is_training:
            _check_workers(pipeline)
    asked = {setting: gpus for setting, gpus in asked.items() if gpus > 0}
    if not asked:
        return
    import torch

    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not found:
        raise ConfigError(
            f"resources: expected a GPU for {_listed(asked)}, found none that torch can use. "
            f"Set {_settings(asked)} to 0 to run on the CPU, or install a torch built for your GPU"
        )
    if asked.get("resources.train.gpus", 0) > found:
        raise ConfigError(
            f"resources.train: expected at most the {found} GPU(s) of this machine, found {resources.train.workers} workers x "
            f"{resources.train.gpus:g}. Lower resources.train.workers"
        )
    together = {setting: gpus for setting, gpus in asked.items() if setting != "resources.train.gpus"}
    if resources.executor == "ray" and sum(together.values()) > found:
        raise ConfigError(
            f"resources: expected at most the {found} GPU(s) of this machine, found {_listed(together)} (gpus x actors), which "
            f"would wait for ever. Lower {_settings(together)}, or their actors; a share such as 0.5 puts two actors on one GPU"
        )


def _check_workers(pipeline: Pipeline) -> None:
    """Ray Train's workers read and write the run folder itself; a store's copy of it would lie on the driver's machine only."""
    workers = pipeline.resources.train.workers
    if files.is_remote(pipeline.output):
        raise ConfigError(
            f"resources.train.workers: expected 1 on a Ray cluster with `output` on an object store, found {workers}; several "
            "workers train in the run folder. Write 1, or put `output` on storage that every node sees under the same path"
        )


def _listed(asked: dict[str, float]) -> str:
    return ", ".join(f"{setting}: {gpus:g}" for setting, gpus in asked.items())


def _settings(asked: dict[str, float]) -> str:
    return " and ".join(asked)


def _check_weights(pipeline: Pipeline, ahead: set[str]) -> None:
    """Each published checkpoint is loaded once, on the CPU: what does not fit is told before anything is downloaded."""
    if not ahead & {"caption", "filter", "dedup"}:
        return
    check_custom(pipeline)
    from capfilt.captioners import build_captioner
    from capfilt.filters import build_filter

    written = [
        _name(section.captioners[0], partial(build_captioner, section, trained=None, device="cpu"))
        for section in (pipeline.caption.each if pipeline.caption is not None else ())
    ]
    read = [
        _name(section.filters[0], partial(build_filter, section, trained=None, device="cpu"))
        for section in (pipeline.filter.each if pipeline.filter is not None else ())
    ]
    _check_names(pipeline, written, read)
    check_checkpoints(pipeline)


def _check_scores(pipeline: Pipeline, ahead: set[str]) -> None:
    """A filter that this run trains must give what `select` judges by; those that are named were checked with the config."""
    rounds = (models_of_round(pipeline, number) for number in range(1, pipeline.rounds + 1))
    trained = [model for models in rounds for model in models.filters if isinstance(model, TrainedModel)]
    if pipeline.select is None or "finetune" not in ahead or not trained:
        return
    kind = _kind(pipeline, pipeline.start_of("filter"))
    score = pipeline.select.of(trained[-1].name or "").score
    if score not in SCORES.get(kind, (score,)):
        told = f"the {kind} that this run trains"
        raise ConfigError(pipeline.select.without_it([told], score, is_one_of_several=len(pipeline.filters) > 1))


def _check_matching(pipeline: Pipeline, ahead: set[str]) -> None:
    """`matching` is a SOHO's: told now, not when after hours the training begins."""
    starts = [(f"pretrain{'' if one.name is None else f' ({one.name})'}", one, one.model) for one in pipeline.pretrainings]
    asked: list[tuple[str, OptimConfig, str]] = [*starts] if "pretrain" in ahead else []
    if pipeline.finetune is not None and "finetune" in ahead:
        tuned = {"captioner": pipeline.finetune.captioner, "filter": pipeline.finetune.filter}
        asked += [(f"finetune.{role}", one, pipeline.start_of(role)) for role in ROLES if (one := tuned[role]) is not None]
    for where, section, start in asked:
        if section.matching is not None and (kind := _kind(pipeline, start)) != "soho":
            raise ConfigError(not_its_matching(where, FAMILIES.get(kind, kind)))


def _check_retrieval(pipeline: Pipeline, ahead: set[str]) -> None:
    """The model that finds pictures and texts must be able to: told now, not when it has been trained."""
    asked = None if pipeline.evaluate is None else pipeline.evaluate.retrieval
    if asked is None or "evaluate" not in ahead:
        return
    start = asked.model
    if start in ROLES:
        start = pipeline.start_of(start)
    kind = _kind(pipeline, start)
    if kind == "clipcap":
        raise ConfigError(
            f"evaluate.retrieval.model: expected a model that scores pairs, found `{asked.model}`, a ClipCap. Name another"
        )
    if kind == "coca" and asked.rerank_top_k:
        raise ConfigError(
            f"evaluate.retrieval.rerank_top_k: expected 0 for a CoCa, which has a cosine alone, found {asked.rerank_top_k}. "
            "Write 0"
        )


def _kind(pipeline: Pipeline, start: str) -> str:
    """The family of a model that a `pretrain` section makes, by its name, or that lies in a folder."""
    of = next((one for one in pipeline.pretrainings if one.model == start), None)
    if of is not None:
        return load_architecture(find_yaml(of.architecture, "models")).kind
    from capfilt.modeling.families import kind_of

    return kind_of(start)


def _name(model: AnyModel, build: "Callable[[], Captioner | Filter]") -> str | None:
    """In tables; None where it is not known before the run. A named checkpoint is loaded for it."""
    if not isinstance(model, NamedModel):
        return model.name
    built = build()
    return model.name or built.name


def _check_names(pipeline: Pipeline, written: Sequence[str | None], read: Sequence[str | None]) -> None:
    """Whether tables can tell the models of a list apart, in every round."""
    for number in range(1, pipeline.rounds + 1):
        models = models_of_round(pipeline, number)
        roles = (
            ("captioner", "caption.captioner", models.captioners, written),
            ("filter", "filter.filter", models.filters, read),
        )
        for role, key, of_role, known in roles:
            trained = f"round-{number - 1}/{role}"
            names = [
                model.name or trained if isinstance(model, TrainedModel) else name
                for model, name in zip(of_role, known, strict=True)
            ]
            check_names(key, [name for name in names if name is not None])
