"""The three trainings of a round: pre-train a new model, fine-tune a captioner, fine-tune a filter.

Each writes a model folder, and does nothing where the folder exists. Knows nothing of rounds or of what is done with the models.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from PIL import Image

from capfilt.config.architecture import Architecture, load_architecture
from capfilt.config.base import Section, is_operational
from capfilt.config.find import find_yaml
from capfilt.config.train import OptimConfig, PretrainConfig
from capfilt.errors import ConfigError
from capfilt.identity import fingerprint, stage_seed
from capfilt.modeling.build import build
from capfilt.modeling.med import MED
from capfilt.modeling.med.training import LossName, MedCaptionerFinetuning, MedFilterFinetuning, MedPretraining
from capfilt.modeling.ranks import Ranks
from capfilt.modeling.weights import LoadedMed, load_model, save_model
from capfilt.training.augment import augment
from capfilt.training.batches import Batches, split_batch
from capfilt.training.checkpoint import Checkpoints
from capfilt.training.data import Kind, PairSet, WebPairs, read_pairs
from capfilt.training.loop import StepReport, Trainable, train
from capfilt.training.pictures import Change
from capfilt.training.shards import ShardReader
from capfilt.training.start import VOCABULARY_TEXTS, fitted, initialise, require_role, resized, tokenizer_for
from capfilt.training.stream import StreamedPairs
from capfilt.training.workers import Launch, Task, spawn

PRETRAIN_CROP, FINETUNE_CROP = 0.2, 0.5
"""Smallest share of a picture that `augment: blip` keeps (BLIP's min_scale)."""

OnStep = Callable[[StepReport], None]
Trunk = Literal["separate", "shared"]


def pretrain(
    config: PretrainConfig,
    *,
    web: WebPairs,
    out: Path,
    work: Path,
    seed: int,
    device: str,
    on_step: OnStep = lambda report: None,
    workers: int = 1,
    prompt: str = "",
    launch: Launch = spawn,
    ranks: Ranks | None = None,
) -> None:
    """A new model from random or published weights on web and human pairs (BLIP section 3.1).

    Alpha ramps over two epochs of web pairs.

    Texts are learnt as they are, without the captioner's prompt, as in BLIP.

    Args:
        web: Web pairs; not read where `mix.web` is 0, or `config.web` names shards.
        out: The model folder to write.
        work: Gets `log.jsonl` and, until the end, `checkpoint/`.
        seed: The run's. Every choice derives from it and from the name of the training.
        workers: That train together, on `batch_size` pairs in all.
        prompt: Its words enter a vocabulary that is trained here, so that it costs the captioner few tokens.
        launch: Starts them.
        ranks: Which of them this is; None where they are still to be started.

    Raises:
        ConfigError: If architecture, vocabulary or workers cannot be right.
        CheckpointError: If weights to start from do not fit the architecture.
        InputError: If a file is missing or holds no pair.
        CapfiltError: If a loss is no finite number.
    """
    if out.exists():
        return
    _check_workers(config, workers)
    if workers > 1:
        arguments = {"config": config, "web": web, "out": out, "work": work, "seed": seed, "prompt": prompt}
        launch(Task("pretrain", arguments, workers, device, work), on_step)
        return
    ranks = ranks or Ranks()
    architecture = load_architecture(find_yaml(config.architecture, "models"))
    px = config.image_px or architecture.image.size
    own_seed = stage_seed(seed, "pretrain")
    web_count, human_count = split_batch(config.batch_size, config.mix.human)
    with ExitStack() as stack:
        sources: list[tuple[PairSet | StreamedPairs, int]] = []
        origins: list[tuple[tuple[str, ...], Kind, int]] = [
            (web.files, web.kind, web_count),
            ((config.human or "",), "human", human_count),
        ]
        for number, (files, kind, count) in enumerate(origins):
            if not count:
                continue
            change = _change(config, px, PRETRAIN_CROP, own_seed, number)
            pairs = (
                _stream(config, px, own_seed, change, stack)
                if config.web is not None and kind != "human"
                else _held(files, kind, px, work, change, ranks, stack)
            )
            sources.append((pairs, count))
        tokenizer = tokenizer_for(config, architecture, (text for pairs, _ in sources for text in _texts(pairs)), prompt)
        architecture = fitted(architecture, tokenizer, px)
        _check_contrast(config, architecture, ranks)
        model = build(architecture, seed=own_seed)
        initialise(model, config)
        model = model.to(device)
        module = MedPretraining(model, losses=_names(config), seed=own_seed, ranks=ranks, negatives=config.negatives).to(device)
        batches = Batches(
            sources,
            tokenizer,
            architecture,
            seed=own_seed,
            device=device,
            fraction_per_epoch=config.web_fraction_per_epoch if web_count else 1.0,
        )
        loaded = LoadedMed(model, architecture, tokenizer)
        _train_and_save(module, model, batches, config, loaded, out, work, own_seed, device, 2, on_step, ranks)


def finetune_captioner(
    config: OptimConfig,
    human: str,
    image_px: int | None = None,
    *,
    trunk: Trunk = "separate",
    start: Path | str,
    out: Path,
    work: Path,
    seed: int,
    device: str,
    prompt: str,
    on_step: OnStep = lambda report: None,
    workers: int = 1,
    launch: Launch = spawn,
    ranks: Ranks | None = None,
) -> None:
    """The captioner: LM on human texts behind the prompt, which itself is not learnt (BLIP section 3.2). Arguments as below."""
    if out.exists():
        return
    _check_workers(config, workers)
    if workers > 1:
        arguments: dict[str, Any] = {"config": config, "human": human, "image_px": image_px, "start": start, "out": out}
        arguments["trunk"] = trunk
        arguments |= {"work": work, "seed": seed, "prompt": prompt}
        launch(Task("finetune_captioner", arguments, workers, device, work), on_step)
        return
    ranks = ranks or Ranks()
    own_seed = stage_seed(seed, "finetune_captioner")
    with ExitStack() as stack:
        loaded, pairs = _start(config, start, human, image_px, work, own_seed, ranks, stack)
        require_role(loaded, "captioner", start)
        model = loaded.model.to(device)
        module = MedCaptionerFinetuning(model, prompt_length=len(loaded.tokenizer.encode_prompt(prompt))).to(device)
        if trunk == "shared":
            module.freeze_trunk()
        batches = Batches(
            [(pairs, config.batch_size)], loaded.tokenizer, loaded.architecture, seed=own_seed, device=device, prompt=prompt
        )
        _train_and_save(module, model, batches, config, loaded, out, work, own_seed, device, 1, on_step, ranks, trunk)


def finetune_filter(
    config: OptimConfig,
    human: str,
    image_px: int | None = None,
    *,
    trunk: Trunk = "separate",
    start: Path | str,
    out: Path,
    work: Path,
    seed: int,
    device: str,
    on_step: OnStep = lambda report: None,
    workers: int = 1,
    launch: Launch = spawn,
    ranks: Ranks | None = None,
) -> None:
    """The filter: ITC and ITM on human pairs, all texts of a picture being its positives (BLIP section 3.2).

    Alpha ramps over one epoch.

    Args:
        config: Steps, rates, batch size, losses.
        human: Human pairs.
        image_px: Side of the pictures; None: the start's. Learned positions are interpolated to a new side.
        trunk: `shared` leaves the image encoder as it is.
        start: The pre-trained model folder, or anything else that `load_model` takes.
        out: The model folder to write; nothing is done where it exists.
        work: Gets `log.jsonl` and, until the end, `checkpoint/`.
        seed: The run's.
        workers: That train together.
        launch: Starts them.
        ranks: Which of them this is; None where they are still to be started.
    """
    if out.exists():
        return
    _check_workers(config, workers)
    if workers > 1:
        arguments: dict[str, Any] = {"config": config, "human": human, "image_px": image_px, "start": start, "out": out}
        arguments["trunk"] = trunk
        arguments |= {"work": work, "seed": seed}
        launch(Task("finetune_filter", arguments, workers, device, work), on_step)
        return
    ranks = ranks or Ranks()
    own_seed = stage_seed(seed, "finetune_filter")
    with ExitStack() as stack:
        loaded, pairs = _start(config, start, human, image_px, work, own_seed, ranks, stack)
        require_role(loaded, "filter", start)
        _check_contrast(config, loaded.architecture, ranks)
        model = loaded.model.to(device)
        module = MedFilterFinetuning(model, losses=_names(config), seed=own_seed, ranks=ranks, negatives=config.negatives).to(
            device
        )
        if trunk == "shared":
            module.freeze_trunk()
        batches = Batches([(pairs, config.batch_size)], loaded.tokenizer, loaded.architecture, seed=own_seed, device=device)
        _train_and_save(module, model, batches, config, loaded, out, work, own_seed, device, 1, on_step, ranks, trunk)


def _train_and_save(
    module: Trainable,
    model: MED,
    batches: Batches,
    config: OptimConfig,
    loaded: LoadedMed,
    out: Path,
    work: Path,
    seed: int,
    device: str,
    ramp_epochs: int,
    on_step: OnStep,
    ranks: Ranks,
    trunk: Trunk = "separate",
) -> None:
    made_of = [_result_settings(config), seed, batches.content(), loaded.architecture.model_dump(mode="json")]
    made_of += [trunk] if trunk == "shared" else []
    # Another number of workers draws other dropout and, with `local`, other negatives.
    mark = fingerprint(made_of if ranks.size == 1 else [*made_of, ranks.size])
    train(
        module,
        batches,
        config,
        work=work,
        seed=seed,
        device=device,
        steps_per_ramp=ramp_epochs * batches.steps_per_epoch,
        mark=mark,
        on_step=on_step,
        ranks=ranks,
    )
    if ranks.rank:
        return
    save_model(out, model, loaded.architecture, loaded.tokenizer)
    Checkpoints(work / "checkpoint").remove()


def _start(
    config: OptimConfig,
    start: Path | str,
    human: str,
    image_px: int | None,
    work: Path,
    seed: int,
    ranks: Ranks,
    stack: ExitStack,
) -> tuple[LoadedMed, PairSet]:
    """The pre-trained model, at the asked image size, and the human pairs."""
    loaded = load_model(start)
    px = image_px or loaded.architecture.image.size
    if px != loaded.architecture.image.size:
        loaded = resized(loaded, px)
    return loaded, _held([human], "human", px, work, _change(config, px, FINETUNE_CROP, seed, 0), ranks, stack)


def _held(
    files: Sequence[str], kind: Kind, px: int, work: Path, change: Change | None, ranks: Ranks, stack: ExitStack
) -> PairSet:
    """Pairs whose texts are in memory; each worker has its own spool."""
    spool = work / (f"{kind}.pictures" if ranks.size == 1 else f"{kind}-{ranks.rank}.pictures")
    pairs = read_pairs(files, kind, px, spool=spool, change=change)
    stack.enter_context(pairs.pictures)
    return pairs


def _stream(config: PretrainConfig, px: int, seed: int, change: Change | None, stack: ExitStack) -> StreamedPairs:
    """Pairs of shards that may be more than memory holds."""
    assert config.web is not None
    reader = ShardReader(config.web)
    pairs = StreamedPairs(reader, px, seed=seed, shuffle_rows=config.shuffle_rows, lanes=config.interleave, change=change)
    stack.callback(pairs.close)
    return pairs


def _texts(pairs: PairSet | StreamedPairs) -> Iterable[str]:
    return pairs.texts(VOCABULARY_TEXTS) if isinstance(pairs, StreamedPairs) else pairs.texts


def _change(config: OptimConfig, px: int, min_scale: float, seed: int, number: int) -> Change | None:
    """What makes another picture of each at each visit: drawn from the seed, the source's number and the place in its stream."""
    if config.augment == "none":
        return None

    def change(picture: Image.Image, place: int) -> Image.Image:
        return augment(picture, px, min_scale, np.random.default_rng([seed, number, place]))

    return change


def _names(config: OptimConfig) -> list[LossName]:
    weights = config.losses.weights()
    return [name for name in get_args(LossName) if name in weights]


def _result_settings(config: Section) -> dict[str, object]:
    fields = type(config).model_fields
    kept = {name for name, field in fields.items() if not is_operational(field)}
    return config.model_dump(mode="json", include=kept)


def _check_workers(config: OptimConfig, workers: int) -> None:
    if config.batch_size % (workers * config.accumulate_steps):
        raise ConfigError(
            f"batch_size: expected a multiple of workers x accumulate_steps, {workers} x {config.accumulate_steps}, found "
            f"{config.batch_size}. Change one of them"
        )


def _check_contrast(config: OptimConfig, architecture: Architecture, ranks: Ranks) -> None:
    if ranks.size > 1 and config.negatives == "global" and architecture.image.stem == "conv":
        raise ConfigError(
            "negatives: global promises what one worker would learn, but the batch norm of stem: conv sees its own worker's "
            "pictures. Write negatives: local, or use an architecture with stem: patch"
        )
