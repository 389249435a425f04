"""Filters by kind: one `match` says what each config builds."""

from importlib import import_module
from typing import assert_never

from capfilt.config.round import Blip2Model, CocaModel, CustomModel, FilterConfig, MedModel, SohoModel, TrainedModel
from capfilt.errors import ConfigError
from capfilt.filters.base import Embedder, Filter, Scores

__all__ = ["Embedder", "Filter", "Scores", "build_filter"]


def build_filter(config: FilterConfig, *, trained: str | None, device: str) -> Filter:
    """The one filter of `config` (of a list, `FilterConfig.each`); `trained`: what `kind: trained` is in this round."""
    (model,) = config.filters
    match model:
        case TrainedModel():
            if trained is None:
                raise ConfigError(
                    "filter.filter is `kind: trained`; expected a model trained by this run, found none. Train one first"
                )
            return _of_family(config, trained, device)
        case MedModel(checkpoint=checkpoint):
            return _med(config, checkpoint, device)
        case CocaModel(kind=kind, checkpoint=checkpoint) | Blip2Model(kind=kind, checkpoint=checkpoint):
            return _of_family(config, checkpoint, device, kind)
        case SohoModel(kind=kind, checkpoint=checkpoint):
            return _of_family(config, checkpoint, device, kind)
        case CustomModel(target=target, options=options):
            module, name = target.split(":")
            built: Filter = getattr(import_module(module), name)(**options)
            return built
        case _ as unreachable:
            assert_never(unreachable)


def _of_family(config: FilterConfig, checkpoint: str, device: str, kind: str | None = None) -> Filter:
    """`kind`: what the folder must hold; None takes any family."""
    from capfilt.filters.families import load_filter

    return load_filter(
        checkpoint, kind=kind, batch_size=config.batch_size, dtype=config.dtype, device=device, pixels=config.pixels
    )


def _med(config: FilterConfig, checkpoint: str, device: str) -> Filter:
    from capfilt.filters.med import MedFilter

    return MedFilter.load(checkpoint, batch_size=config.batch_size, dtype=config.dtype, device=device, pixels=config.pixels)
