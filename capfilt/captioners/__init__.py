"""Captioners: from a config to one, by where its model comes from and by the family that it turns out to be."""

from typing import TYPE_CHECKING, assert_never

from capfilt.captioners.base import Caption, Captioner
from capfilt.config.architectures.parts import missing_role
from capfilt.config.decoding import Decoding
from capfilt.config.round import CaptionConfig, CustomModel
from capfilt.errors import CheckpointError

if TYPE_CHECKING:
    from capfilt.captioners.network import NetworkCaptioner
    from capfilt.modeling.inference import Inference

__all__ = ["Caption", "Captioner", "build_captioner", "captioner_of"]


def build_captioner(config: CaptionConfig, *, trained: str | None, device: str) -> Captioner:
    """The one captioner of `config` (of a list, `CaptionConfig.each`); `trained`: what `kind: trained` is in this round.

    Raises:
        CheckpointError: If there is no such model, it is of another kind, or it writes no captions.
        ConfigError: If `trained` is missing, or there is no such device.
    """
    (model,) = config.captioners
    if isinstance(model, CustomModel):
        built: Captioner = model.build()
        return built
    from capfilt.modeling.inference import load_asked

    network = load_asked(model, config, trained=trained, device=device, place="caption.captioner")
    return captioner_of(network, prompt=config.prompt, decode=config.decode)


def captioner_of(network: "Inference", *, prompt: str, decode: Decoding) -> "NetworkCaptioner":
    """The captioner that a network is, by its family.

    Raises:
        CheckpointError: If its weights write no captions.
    """
    from capfilt.captioners.blip2 import Blip2Captioner, QFormerCaptioner
    from capfilt.captioners.clipcap import ClipCapCaptioner
    from capfilt.captioners.coca import CocaCaptioner
    from capfilt.captioners.med import MedCaptioner
    from capfilt.modeling.build import MED, SOHO, Blip2, ClipCap, CoCa, QFormer

    match network.model:
        case MED() as med:
            return MedCaptioner(network, med, prompt=prompt, decode=decode)
        case CoCa() as coca:
            return CocaCaptioner(network, coca, prompt=prompt, decode=decode)
        case QFormer() as qformer:
            return QFormerCaptioner(network, qformer, prompt=prompt, decode=decode)
        case Blip2() as blip2:
            return Blip2Captioner(network, blip2, prompt=prompt, decode=decode)
        case ClipCap() as clipcap:
            return ClipCapCaptioner(network, clipcap, prompt=prompt, decode=decode)
        case SOHO():
            raise CheckpointError(missing_role(network.name, "captioner"))
        case _ as unreachable:
            assert_never(unreachable)
