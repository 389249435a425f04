"""The three trainings of a round: pre-train a new model, fine-tune a captioner, fine-tune a filter.

Each writes a model folder, and does nothing where the folder exists. The same for every family: what a network begins with is
`training.start`'s to say, what it learns from `training.objectives`'. Knows nothing of rounds or of what is done with the models.
"""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

from capfilt.config.architectures import image_side
from capfilt.config.base import Section, is_operational
from capfilt.config.families import Stage, check_batch, check_negatives
from capfilt.config.train import FinetuneCaptioner, OptimConfig, PretrainConfig
from capfilt.errors import ConfigError
from capfilt.identity import fingerprint, stage_seed
from capfilt.modeling.blip2.language import FrozenLanguage
from capfilt.modeling.blip2.network import Blip2
from capfilt.modeling.clipcap.network import ClipCap
from capfilt.modeling.families import Loaded, load_network, save_network
from capfilt.modeling.ranks import Ranks
from capfilt.training.batches import Batches, split_mix
from capfilt.training.checkpoint import Checkpoints
from capfilt.training.data import WebPairs
from capfilt.training.loop import StepReport, train
from capfilt.training.objectives import objective, ramp_epochs
from capfilt.training.sources import FINETUNE_CROP, change_of, held_pairs, pretraining_sources, texts_of
from capfilt.training.start import begin, fresh, require_role, resized
from capfilt.training.workers import Launch, Task, spawn

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
    image: Path | None = None,
    text: Path | None = None,
    launch: Launch = spawn,
    ranks: Ranks | None = None,
) -> None:
    """A new model from random or published weights on web, human and labelled pairs (BLIP section 3.1, and each family's paper).

    A MED's alpha ramps over two epochs of web pairs. Texts are learnt as they are, without the captioner's prompt, as in BLIP.

    Args:
        web: Web pairs; not read where `mix.web` is 0, or `config.web` names shards.
        out: The model folder to write.
        work: Gets `log.jsonl` and, until the end, `checkpoint/`.
        seed: The run's. Every choice derives from it and from the name of the training.
        workers: That train together, on `batch_size` pairs in all.
        prompt: Its words enter a vocabulary that is trained here, so that it costs the captioner few tokens.
        image: The folder of the model that `config.init.image` names; None: that is a folder or hub name itself.
        text: The same of `config.init.text`.
        launch: Starts them.
        ranks: Which of them this is; None where they are still to be started.

    Raises:
        ConfigError: If architecture, losses, vocabulary or workers cannot be right.
        CheckpointError: If weights to start from do not fit the architecture.
        InputError: If a file is missing or holds no pair.
        CapfiltError: If a loss is no finite number.
    """
    if out.exists():
        return
    check_batch(config, workers)
    if workers > 1:
        arguments = {"config": config, "web": web, "out": out, "work": work, "seed": seed, "prompt": prompt}
        arguments |= {"image": image, "text": text}
        launch(Task("pretrain", arguments, workers, device, work), on_step)
        return
    ranks = ranks or Ranks()
    start = begin(config, image, text)
    own_seed = stage_seed(seed, "pretrain" if config.name is None else f"pretrain {config.name}")
    with ExitStack() as stack:
        sources = pretraining_sources(config, web, start.architecture, start.px, work, own_seed, ranks, stack)
        loaded = fresh(start, config, (text for pairs, _ in sources for text in texts_of(pairs)), prompt=prompt, seed=own_seed)
        check_negatives(config, loaded.architecture, ranks.size)
        batches = Batches(
            sources,
            loaded.tokenizer,
            loaded.architecture,
            seed=own_seed,
            device=device,
            fraction_per_epoch=config.web_fraction_per_epoch if split_mix(config.batch_size, config.mix)[0] else 1.0,
            language=_language(loaded),
        )
        _train_and_save(loaded, "pretrain", batches, config, out, work, own_seed, device, on_step, ranks)


def finetune_captioner(
    config: OptimConfig,
    human: str | None,
    image_px: int | None = None,
    *,
    prompt: str,
    **options: Any,
) -> None:
    """The captioner: LM on human texts behind the prompt, which itself is not learnt (BLIP section 3.2).

    A ClipCap may learn from stored embeddings instead (`config.embeddings`). Arguments as of `finetune_filter`; `prompt` as of
    `pretrain`.
    """
    _finetune("captioner", config, human, image_px, prompt=prompt, **options)


def finetune_filter(config: OptimConfig, human: str | None, image_px: int | None = None, **options: Any) -> None:
    """The filter: ITC and ITM on human pairs, all texts of a picture being its positives (BLIP section 3.2).

    A MED's alpha ramps over one epoch.

    Args:
        config: Steps, rates, batch size, losses.
        human: Human pairs.
        image_px: Side of the pictures; None: the start's. A MED's learned positions are interpolated to a new side.
        **options: As `_finetune` names them: `start`, the pre-trained model folder, or anything else that `load_network` takes;
            `trunk`, of which `shared` leaves the image encoder as it is; the others as of `pretrain`.

    Raises:
        CheckpointError: If the start is none, or cannot take the role.
        ConfigError: If it has not the losses that are asked for.
    """
    _finetune("filter", config, human, image_px, prompt="", **options)


def _finetune(
    role: Literal["captioner", "filter"],
    config: OptimConfig,
    human: str | None,
    image_px: int | None,
    *,
    prompt: str,
    start: Path | str,
    out: Path,
    work: Path,
    seed: int,
    device: str,
    trunk: Trunk = "separate",
    on_step: OnStep = lambda report: None,
    workers: int = 1,
    launch: Launch = spawn,
    ranks: Ranks | None = None,
) -> None:
    if out.exists():
        return
    check_batch(config, workers)
    own_seed = stage_seed(seed, f"finetune_{role}")
    if isinstance(config, FinetuneCaptioner) and config.embeddings is not None:
        _from_embeddings(config, start, out, work, seed, device, prompt, on_step, workers)
        return
    if workers > 1:
        arguments: dict[str, Any] = {"config": config, "human": human, "image_px": image_px, "start": start, "out": out}
        arguments |= {"work": work, "seed": seed, "trunk": trunk} | ({"prompt": prompt} if role == "captioner" else {})
        launch(Task(f"finetune_{role}", arguments, workers, device, work), on_step)
        return
    ranks = ranks or Ranks()
    with ExitStack() as stack:
        loaded = load_network(start)
        if image_px not in (None, image_side(loaded.architecture)):
            loaded = resized(loaded, image_px)
        require_role(loaded, role, start)
        check_negatives(config, loaded.architecture, ranks.size)
        px = image_side(loaded.architecture)
        change = change_of(config, loaded.architecture, px, FINETUNE_CROP, own_seed, 0)
        pairs = held_pairs([human or ""], "human", px, work, change, ranks, stack)
        batches = Batches(
            [(pairs, config.batch_size)],
            loaded.tokenizer,
            loaded.architecture,
            seed=own_seed,
            device=device,
            prompt=prompt,
            language=_language(loaded),
        )
        prompt_length = _prompt_length(loaded, prompt) if role == "captioner" else 0
        _train_and_save(
            loaded, role, batches, config, out, work, own_seed, device, on_step, ranks, prompt_length=prompt_length, trunk=trunk
        )


def _prompt_length(loaded: Loaded, prompt: str) -> int:
    """Tokens at the head of every text that are the prompt's."""
    language = _language(loaded)
    # What an encoder-decoder's encoder reads ends in a closing token, which stands in no text behind its prompt.
    closing = 1 if language is not None and language.is_encoder_decoder else 0
    return len(loaded.tokenizer.encode_prompt(prompt)) - closing


def _language(loaded: Loaded) -> FrozenLanguage | None:
    """Of BLIP-2's stage 2."""
    return loaded.model.language if isinstance(loaded.model, Blip2) else None


def _train_and_save(
    loaded: Loaded,
    stage: Stage,
    batches: Batches,
    config: OptimConfig,
    out: Path,
    work: Path,
    seed: int,
    device: str,
    on_step: OnStep,
    ranks: Ranks,
    *,
    prompt_length: int = 0,
    trunk: Trunk = "separate",
) -> None:
    model = loaded.model.to(device)
    module = objective(
        model, stage, config, prompt_length=prompt_length, seed=seed, ranks=ranks, is_trunk_frozen=trunk == "shared"
    ).to(device)
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
        steps_per_ramp=ramp_epochs(model, stage) * batches.steps_per_epoch,
        mark=mark,
        on_step=on_step,
        ranks=ranks,
    )
    if ranks.rank:
        return
    save_network(out, loaded)
    Checkpoints(work / "checkpoint").remove()


def _from_embeddings(
    config: FinetuneCaptioner,
    start: Path | str,
    out: Path,
    work: Path,
    seed: int,
    device: str,
    prompt: str,
    on_step: OnStep,
    workers: int,
) -> None:
    """A ClipCap from stored embeddings: no picture is decoded (ClipCap section 3)."""
    from capfilt.training.embeddings import stored_pairs
    from capfilt.training.from_embeddings import train_on_embeddings

    assert config.embeddings is not None
    if workers > 1:
        raise ConfigError(
            f"finetune.captioner.embeddings: expected resources.train.workers 1, found {workers}. Write 1: it takes minutes"
        )
    loaded = load_network(start)
    if config.embeddings.image is not None and isinstance(loaded.model, ClipCap):
        loaded = Loaded(model := loaded.model.with_image_side(config.embeddings.image), model.config, loaded.tokenizer)
    objective(loaded.model, "captioner", config)  # refuses what no ClipCap learns from
    train_on_embeddings(
        config,
        stored_pairs(config.embeddings),
        loaded,
        out=out,
        work=work,
        seed=seed,
        device=device,
        prompt=prompt,
        on_step=on_step,
    )


def _result_settings(config: Section) -> dict[str, object]:
    fields = type(config).model_fields
    kept = {name for name, field in fields.items() if not is_operational(field)}
    return config.model_dump(mode="json", include=kept)
