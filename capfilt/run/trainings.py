"""What `pretrain` and `finetune` would refuse when their turn comes, hours later, told before any work.

Reads settings, architectures and whether named files are there; loads no weights and no torch. What has a hub name is fetched:
the marks of finished trainings tell weights by their content, so they must be there before the first mark is made.
"""

from pathlib import Path

from capfilt.config.architectures import Architecture, image_side, load_architecture
from capfilt.config.architectures.med import MedArchitecture
from capfilt.config.architectures.parts import missing_role
from capfilt.config.families import (
    BUILT_ON,
    asked_losses,
    brings_vocabulary,
    check_batch,
    check_beginning,
    check_negatives,
    check_vocabulary,
    check_vocabulary_size,
    family_of,
)
from capfilt.config.find import find_yaml
from capfilt.config.pipeline import Pipeline
from capfilt.config.train import FinetuneConfig, OptimConfig, PretrainConfig
from capfilt.errors import CheckpointError, ConfigError
from capfilt.modeling.find import HUB_NAME, find_checkpoint


def check_trainings(pipeline: Pipeline, ahead: set[str]) -> None:
    """The trainings among the stages that are still to be done.

    Raises:
        ConfigError: If losses, vocabulary, `init`, workers or parts cannot be right.
        CheckpointError: If a vocabulary, or a model to begin with, is not there.
    """
    made: dict[str, Architecture] = {}
    if "pretrain" in ahead:
        _check_data_set(pipeline)
    for one in pipeline.pretrainings if ahead & {"pretrain", "finetune"} else ():
        if "pretrain" in ahead:
            where = "pretrain" if one.name is None else f"pretrain ({one.name})"
            _check_pretraining(pipeline, one, _architecture(one), made, where)
        made[one.model] = _architecture(one)
    if pipeline.finetune is not None and "finetune" in ahead:
        _check_finetuning(pipeline, pipeline.finetune, made)


def _architecture(section: PretrainConfig) -> Architecture:
    return load_architecture(find_yaml(section.architecture, "models"))


def _check_data_set(pipeline: Pipeline) -> None:
    learns = next((one for one in pipeline.pretrainings if one.web is None and one.mix.web > 0), None)
    if pipeline.write is not None and "parquet" not in pipeline.write.formats and learns is not None:
        raise ConfigError(
            f"write.formats: expected parquet, which {learns.model} learns from (mix.web: {learns.mix.web:g}), found "
            f"{', '.join(pipeline.write.formats)}. Add parquet, or name shards in pretrain.web"
        )


def _check_pretraining(
    pipeline: Pipeline, section: PretrainConfig, architecture: Architecture, earlier: dict[str, Architecture], where: str
) -> None:
    asked_losses(family_of(architecture), "pretrain", section, where)
    _check_parts(pipeline, section, architecture, where)
    check_beginning(section, architecture, where)
    if isinstance(architecture, MedArchitecture) and section.init.image is not None:
        layout = architecture.image.stem, architecture.image.positions
        if layout != ("patch", "learned"):
            raise ConfigError(
                f"{where}.init.image: expected an architecture with stem: patch and positions: learned to take a ViT's weights, "
                f"found {layout[0]} and {layout[1]} in {section.architecture}. Name another architecture, or leave it out"
            )
    for key, source in (("image", section.init.image), ("text", section.init.text)):
        wanted = BUILT_ON.get((family_of(architecture), key))
        if source is None:
            continue
        if wanted is None or source not in earlier:
            _require(pipeline, f"{where}.init.{key}", source)
        elif family_of(earlier[source]) != wanted:
            found = family_of(earlier[source])
            raise ConfigError(f"{where}.init.{key}: expected a {wanted}, found `{source}`, a {found}. Name another")
    if brings_vocabulary(section, architecture):
        return
    check_vocabulary(section, architecture, where)
    if section.vocabulary is not None and not _is_own(pipeline, section.vocabulary):
        if not Path(section.vocabulary).is_file():
            raise CheckpointError(
                f"{where}.vocabulary: expected a file of one token per line, found none at {section.vocabulary}. Correct the path"
            )
        from capfilt.modeling.tokenizer import Tokenizer

        check_vocabulary_size(section, architecture, len(Tokenizer.from_vocab(section.vocabulary)), where)


def _check_finetuning(pipeline: Pipeline, section: FinetuneConfig, made: dict[str, Architecture]) -> None:
    for role in section.models:
        own = section.captioner if role == "captioner" else section.filter
        assert own is not None
        where, start = f"finetune.{role}", pipeline.start_of(role)
        if start not in made:
            _require(pipeline, f"{where}.start", start)
        architecture = made.get(start) or _lying_in(start)
        if architecture is None:  # what others published is known when it is loaded
            continue
        family, px = family_of(architecture), image_side(architecture) if architecture.image is not None else None
        asked_losses(family, role, own, where)
        if start not in made and role not in architecture.roles and family != "BLIP-2 with a language model":
            raise CheckpointError(missing_role(start, role))
        _check_parts(pipeline, own, architecture, where)
        is_shown = getattr(own, "embeddings", None) is None
        if section.image_px not in (None, px) and is_shown and family != "MED" and start not in made:
            raise ConfigError(
                f"finetune.image_px: expected {px}, the size a {family} was trained with, found {section.image_px}. Write null"
            )
        if section.trunk == "shared" and family in ("CoCa", "SOHO"):
            raise ConfigError(f"finetune.trunk: expected separate for a {family}, found shared. Write trunk: separate")


def _check_parts(pipeline: Pipeline, section: OptimConfig, architecture: Architecture, where: str) -> None:
    workers, family = pipeline.resources.train.workers, family_of(architecture)
    if section.accumulate_steps * workers > 1 and family != "MED":
        raise ConfigError(
            f"{where}: expected accumulate_steps 1 and resources.train.workers 1 for a {family}, which learns from whole batches "
            f"only, found {section.accumulate_steps} and {workers}. Write 1 of each"
        )
    check_batch(section, workers, f"{where}.")
    check_negatives(section, architecture, workers, f"{where}.")


def _lying_in(start: str) -> Architecture | None:
    """Of a model folder of ours."""
    folder = Path(start).expanduser()
    is_ours = (folder / "architecture.yaml").is_file() and (folder / "model.safetensors").is_file()
    return load_architecture(folder / "architecture.yaml") if is_ours else None


def _require(pipeline: Pipeline, key: str, source: str) -> None:
    """A path on this machine, or a hub name; what this run makes itself is not there yet."""
    if _is_own(pipeline, source) or Path(source).expanduser().exists():
        return
    if HUB_NAME.fullmatch(source) is not None:
        try:
            find_checkpoint(source)
        except CheckpointError as error:
            raise CheckpointError(f"{key}: {error}") from None
        return
    raise CheckpointError(
        f"{key}: expected a model folder, a checkpoint file or a hub name (owner/name), found none at {source}. Correct the path"
    )


def _is_own(pipeline: Pipeline, path: str) -> bool:
    return path.startswith(pipeline.output.rstrip("/") + "/")
