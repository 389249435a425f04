"""The three trainings of a round: pre-train a new model, fine-tune a captioner, fine-tune a filter.

Each writes a model folder, and does nothing where the folder exists. Knows nothing of rounds or of what is done with the models.
"""

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import get_args

from capfilt.config.architecture import Architecture, load_architecture
from capfilt.config.base import Section, is_operational
from capfilt.config.find import find_yaml
from capfilt.config.train import Initial, OptimConfig, PretrainConfig
from capfilt.errors import ConfigError
from capfilt.identity import fingerprint, stage_seed
from capfilt.modeling.build import build
from capfilt.modeling.med import MED
from capfilt.modeling.pretraining import LossName, MedCaptionerFinetuning, MedFilterFinetuning, MedPretraining
from capfilt.modeling.tokenizer import Tokenizer
from capfilt.modeling.weights import LoadedMed, load_model, load_tensors, own_tensors, save_model
from capfilt.training.batches import Batches, split_batch
from capfilt.training.checkpoint import Checkpoints
from capfilt.training.data import Kind, PairSet, WebPairs, read_pairs
from capfilt.training.loop import StepReport, Trainable, train

VOCABULARY_TEXTS = 1_000_000
"""Texts that a vocabulary is trained on, at most: the first ones."""

OnStep = Callable[[StepReport], None]


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
) -> None:
    """A new model from random weights on web and human pairs (BLIP section 3.1). Alpha ramps over two epochs of web pairs.

    Texts are learnt as they are, without the captioner's prompt, as in BLIP.

    Args:
        web: Web pairs; not read where `mix.web` is 0.
        out: The model folder to write.
        work: Gets `log.jsonl` and, until the end, `checkpoint/`.
        seed: The run's. Every choice derives from it and from the name of the training.
        prompt: Its words enter a vocabulary that is trained here, so that it costs the captioner few tokens.

    Raises:
        ConfigError: If architecture, vocabulary or workers cannot be right.
        InputError: If a file is missing or holds no pair.
        CapfiltError: If a loss is no finite number.
    """
    _one_worker(workers)
    if out.exists():
        return
    if config.init != Initial():
        raise ConfigError(
            f"pretrain.init: expected null (from random weights), found {config.init}; published weights come later"
        )
    architecture = load_architecture(find_yaml(config.architecture, "models"))
    px = config.image_px or architecture.image.size
    web_count, human_count = split_batch(config.batch_size, config.mix.human)
    with ExitStack() as stack:
        sources: list[tuple[PairSet, int]] = []
        origins: list[tuple[tuple[str, ...], Kind, int]] = [
            (web.files, web.kind, web_count),
            ((config.human,), "human", human_count),
        ]
        for files, kind, count in origins:
            if count:
                pairs = read_pairs(files, kind, px, spool=work / f"{kind}.pictures")
                stack.enter_context(pairs.pictures)
                sources.append((pairs, count))
        tokenizer = _tokenizer(config, architecture, [text for pairs, _ in sources for text in pairs.texts], prompt)
        architecture = _fitted(architecture, tokenizer, px)
        own_seed = stage_seed(seed, "pretrain")
        model = build(architecture, seed=own_seed).to(device)
        module = MedPretraining(model, losses=_names(config), seed=own_seed).to(device)
        batches = Batches(sources, tokenizer, architecture, seed=own_seed, device=device)
        _train_and_save(
            module, model, batches, config, LoadedMed(model, architecture, tokenizer), out, work, own_seed, device, 2, on_step
        )


def finetune_captioner(
    config: OptimConfig,
    human: str,
    image_px: int | None = None,
    *,
    start: Path,
    out: Path,
    work: Path,
    seed: int,
    device: str,
    prompt: str,
    on_step: OnStep = lambda report: None,
    workers: int = 1,
) -> None:
    """The captioner: LM on human texts behind the prompt, which itself is not learnt (BLIP section 3.2). Arguments as below."""
    _one_worker(workers)
    if out.exists():
        return
    with ExitStack() as stack:
        loaded, pairs = _start(start, human, image_px, work, stack)
        own_seed = stage_seed(seed, "finetune_captioner")
        model = loaded.model.to(device)
        module = MedCaptionerFinetuning(model, prompt_length=len(loaded.tokenizer.encode_prompt(prompt))).to(device)
        batches = Batches(
            [(pairs, config.batch_size)], loaded.tokenizer, loaded.architecture, seed=own_seed, device=device, prompt=prompt
        )
        _train_and_save(module, model, batches, config, loaded, out, work, own_seed, device, 1, on_step)


def finetune_filter(
    config: OptimConfig,
    human: str,
    image_px: int | None = None,
    *,
    start: Path,
    out: Path,
    work: Path,
    seed: int,
    device: str,
    on_step: OnStep = lambda report: None,
    workers: int = 1,
) -> None:
    """The filter: ITC and ITM on human pairs, all texts of a picture being its positives (BLIP section 3.2).

    Alpha ramps over one epoch.

    Args:
        config: Steps, rates, batch size, losses.
        human: Human pairs.
        image_px: Side of the pictures; None: the start's. Learned positions are interpolated to a new side.
        start: The pre-trained model folder.
        out: The model folder to write; nothing is done where it exists.
        work: Gets `log.jsonl` and, until the end, `checkpoint/`.
        seed: The run's.
    """
    _one_worker(workers)
    if out.exists():
        return
    with ExitStack() as stack:
        loaded, pairs = _start(start, human, image_px, work, stack)
        own_seed = stage_seed(seed, "finetune_filter")
        model = loaded.model.to(device)
        module = MedFilterFinetuning(model, losses=_names(config), seed=own_seed).to(device)
        batches = Batches([(pairs, config.batch_size)], loaded.tokenizer, loaded.architecture, seed=own_seed, device=device)
        _train_and_save(module, model, batches, config, loaded, out, work, own_seed, device, 1, on_step)


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
) -> None:
    mark = fingerprint([_result_settings(config), seed, batches.content(), loaded.architecture.model_dump(mode="json")])
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
    )
    save_model(out, model, loaded.architecture, loaded.tokenizer)
    Checkpoints(work / "checkpoint").remove()


def _start(start: Path, human: str, image_px: int | None, work: Path, stack: ExitStack) -> tuple[LoadedMed, PairSet]:
    """The pre-trained model, at the asked image size, and the human pairs."""
    loaded = load_model(start)
    px = image_px or loaded.architecture.image.size
    if px != loaded.architecture.image.size:
        loaded = _resized(loaded, px)
    pairs = read_pairs([human], "human", px, spool=work / "human.pictures")
    stack.enter_context(pairs.pictures)
    return loaded, pairs


def _resized(loaded: LoadedMed, px: int) -> LoadedMed:
    """The same network for pictures of another size."""
    architecture = _validated(loaded.architecture, {"image": {"size": px}})
    model = build(architecture)
    tensors = own_tensors(loaded.model)
    if "vision.positions" in tensors:
        tensors["vision.positions"] = loaded.model.vision.positions_for(model.vision.side).detach()
    load_tensors(model, tensors, "the pre-trained model")
    return LoadedMed(model, architecture, loaded.tokenizer)


def _tokenizer(config: PretrainConfig, architecture: Architecture, texts: Iterable[str], prompt: str) -> Tokenizer:
    wanted = architecture.text
    if config.vocabulary is None:
        if wanted.vocabulary == "bert":
            raise ConfigError(
                f"pretrain.vocabulary: architecture {config.architecture} needs bert-base-uncased's vocab.txt, found null; "
                "name the file, or write `text.vocabulary: trained` in the architecture"
            )
        return Tokenizer.train([prompt, *islice(texts, VOCABULARY_TEXTS)], wanted.vocab_size)
    tokenizer = Tokenizer.from_vocab(config.vocabulary)
    if wanted.vocabulary == "bert" and len(tokenizer) != wanted.vocab_size:
        raise ConfigError(
            f"pretrain.vocabulary: architecture {config.architecture} expects {wanted.vocab_size} tokens with [DEC] and [ENC], "
            f"{config.vocabulary} gives {len(tokenizer)}; name the matching file or architecture"
        )
    return tokenizer


def _fitted(architecture: Architecture, tokenizer: Tokenizer, px: int) -> Architecture:
    """The architecture with the tokenizer's real size and ids, and the pictures' size."""
    text = {
        "vocab_size": len(tokenizer),
        "pad_id": tokenizer.pad_id,
        "cls_id": tokenizer.cls_id,
        "sep_id": tokenizer.sep_id,
    }
    return _validated(architecture, {"text": text, "image": {"size": px}})


def _validated(architecture: Architecture, changes: dict[str, dict[str, int]]) -> Architecture:
    content = architecture.model_dump()
    for section, values in changes.items():
        content[section] |= values
    try:
        return type(architecture).model_validate(content)
    except ValueError as error:
        raise ConfigError(
            f"expected an image size and a vocabulary that fit the architecture, found {error}; change them"
        ) from None


def _names(config: OptimConfig) -> list[LossName]:
    weights = config.losses.weights()
    return [name for name in get_args(LossName) if name in weights]


def _result_settings(config: Section) -> dict[str, object]:
    fields = type(config).model_fields
    kept = {name for name, field in fields.items() if not is_operational(field)}
    return config.model_dump(mode="json", include=kept)


def _one_worker(workers: int) -> None:
    if workers > 1:
        raise ConfigError(
            f"resources.train.workers: expected 1, found {workers}; several workers come later, with Ray Train. Write 1"
        )
