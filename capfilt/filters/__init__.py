"""Filters by kind: one `match` says what each config builds."""

from importlib import import_module
from typing import assert_never

from capfilt.config.round import CustomModel, FilterConfig, MedModel, TrainedModel
from capfilt.errors import ConfigError
from capfilt.filters.base import Embedder, Filter, Scores

__all__ = ["Embedder", "Filter", "Scores", "build_filter"]


def build_filter(config: FilterConfig, *, trained: str | None, device: str) -> Filter:
    """The filter of `config`; `trained` is the folder that `kind: trained` stands for in this round."""
    match config.filter:
        case TrainedModel():
            if trained is None:
                raise ConfigError(
                    "filter.filter is `kind: trained`; expected a model trained by this run, found none. Train one first"
                )
            from capfilt.filters.families import load_filter

            return load_filter(trained, batch_size=config.batch_size, dtype=config.dtype, device=device, pixels=config.pixels)
        case MedModel(checkpoint=checkpoint):
            return _med(config, checkpoint, device)
        case CustomModel(target=target, options=options):
            module, name = target.split(":")
            built: Filter = getattr(import_module(module), name)(**options)
            return built
        case _ as unreachable:
            assert_never(unreachable)


def _med(config: FilterConfig, checkpoint: str, device: str) -> Filter:
    from capfilt.filters.med import MedFilter

    return MedFilter.load(checkpoint, batch_size=config.batch_size, dtype=config.dtype, device=device, pixels=config.pixels)
