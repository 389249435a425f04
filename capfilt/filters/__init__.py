"""Filters: from a config to one, by where its model comes from and by the family that it turns out to be."""

from typing import TYPE_CHECKING, assert_never

from capfilt.config.architectures.parts import missing_role
from capfilt.config.round import CustomModel, FilterConfig
from capfilt.errors import CheckpointError
from capfilt.filters.base import Embedder, Filter, Scores

if TYPE_CHECKING:
    from capfilt.filters.network import NetworkFilter
    from capfilt.modeling.inference import Inference

__all__ = ["Embedder", "Filter", "Scores", "build_filter", "filter_of"]


def build_filter(config: FilterConfig, *, trained: str | None, device: str) -> Filter:
    """The one filter of `config` (of a list, `FilterConfig.each`); `trained`: what `kind: trained` is in this round.

    Raises:
        CheckpointError: If there is no such model, it is of another kind, or it scores nothing.
        ConfigError: If `trained` is missing, or there is no such device.
    """
    (model,) = config.filters
    if isinstance(model, CustomModel):
        built: Filter = model.build()
        return built
    from capfilt.modeling.inference import load_asked

    return filter_of(load_asked(model, config, trained=trained, device=device, place="filter.filter"))


def filter_of(network: "Inference") -> "NetworkFilter":
    """The filter that a network is, by its family.

    Raises:
        CheckpointError: If its weights score nothing.
    """
    from capfilt.filters.blip2 import Blip2Filter
    from capfilt.filters.coca import CocaFilter
    from capfilt.filters.med import MedFilter
    from capfilt.filters.soho import SohoFilter
    from capfilt.modeling.build import MED, SOHO, Blip2, ClipCap, CoCa, QFormer

    match network.model:
        case MED() as med:
            return MedFilter(network, med)
        case CoCa() as coca:
            return CocaFilter(network, coca)
        case QFormer() as qformer:
            return Blip2Filter(network, qformer)
        case SOHO() as soho:
            return SohoFilter(network, soho)
        case Blip2() | ClipCap():
            raise CheckpointError(missing_role(network.name, "filter"))
        case _ as unreachable:
            assert_never(unreachable)
