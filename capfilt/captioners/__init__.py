"""Captioners by kind: one `match` says what each config builds."""

from importlib import import_module
from typing import assert_never

from capfilt.captioners.base import Caption, Captioner
from capfilt.config.round import Blip2Model, CaptionConfig, ClipCapModel, CocaModel, CustomModel, MedModel, TrainedModel
from capfilt.errors import ConfigError

__all__ = ["Caption", "Captioner", "build_captioner"]


def build_captioner(config: CaptionConfig, *, trained: str | None, device: str) -> Captioner:
    """The one captioner of `config` (of a list, `CaptionConfig.each`); `trained`: what `kind: trained` is in this round."""
    (model,) = config.captioners
    match model:
        case TrainedModel():
            if trained is None:
                raise ConfigError(
                    "caption.captioner is `kind: trained`; expected a model trained by this run, found none. Train one first"
                )
            return _of_family(config, trained, device)
        case MedModel(checkpoint=checkpoint):
            return _med(config, checkpoint, device)
        case CocaModel(kind=kind, checkpoint=checkpoint) | Blip2Model(kind=kind, checkpoint=checkpoint):
            return _of_family(config, checkpoint, device, kind)
        case ClipCapModel(kind=kind, checkpoint=checkpoint):
            return _of_family(config, checkpoint, device, kind)
        case CustomModel(target=target, options=options):
            module, name = target.split(":")
            built: Captioner = getattr(import_module(module), name)(**options)
            return built
        case _ as unreachable:
            assert_never(unreachable)


def _of_family(config: CaptionConfig, checkpoint: str, device: str, kind: str | None = None) -> Captioner:
    """`kind`: what the folder must hold; None takes any family."""
    from capfilt.captioners.families import load_captioner

    return load_captioner(
        checkpoint,
        kind=kind,
        prompt=config.prompt,
        decode=config.decode,
        batch_size=config.batch_size,
        dtype=config.dtype,
        device=device,
        pixels=config.pixels,
    )


def _med(config: CaptionConfig, checkpoint: str, device: str) -> Captioner:
    from capfilt.captioners.med import MedCaptioner

    return MedCaptioner.load(
        checkpoint,
        prompt=config.prompt,
        decode=config.decode,
        batch_size=config.batch_size,
        dtype=config.dtype,
        device=device,
        pixels=config.pixels,
    )
