"""From an architecture to a network with fresh weights: one `match` over the families.

Knows nothing of checkpoints, but that a BLIP-2's frozen parts are loaded.
"""

from typing import assert_never, overload

import torch

from capfilt.config.architectures import Architecture
from capfilt.config.architectures.blip2 import Blip2Architecture
from capfilt.config.architectures.clipcap import ClipCapArchitecture
from capfilt.config.architectures.coca import CocaArchitecture
from capfilt.config.architectures.med import MedArchitecture
from capfilt.config.architectures.soho import SohoArchitecture
from capfilt.modeling.blip2.build import build_blip2
from capfilt.modeling.blip2.network import Blip2
from capfilt.modeling.blip2.qformer import QFormer
from capfilt.modeling.clipcap.network import ClipCap
from capfilt.modeling.coca.network import CoCa
from capfilt.modeling.med.network import MED
from capfilt.modeling.soho.network import SOHO

__all__ = ["MED", "SOHO", "Blip2", "ClipCap", "CoCa", "Network", "QFormer", "build"]

Network = MED | CoCa | QFormer | Blip2 | ClipCap | SOHO


@overload
def build(architecture: MedArchitecture, *, seed: int = 0) -> MED: ...
@overload
def build(architecture: CocaArchitecture, *, seed: int = 0) -> CoCa: ...
@overload
def build(architecture: Blip2Architecture, *, seed: int = 0) -> QFormer | Blip2: ...
@overload
def build(architecture: ClipCapArchitecture, *, seed: int = 0) -> ClipCap: ...
@overload
def build(architecture: SohoArchitecture, *, seed: int = 0) -> SOHO: ...
def build(architecture: Architecture, *, seed: int = 0) -> Network:
    """The network, weights drawn from `seed` alone; torch's global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        match architecture:
            case MedArchitecture():
                return MED(architecture)
            case CocaArchitecture():
                return CoCa(architecture)
            case Blip2Architecture():
                return build_blip2(architecture, seed=seed)
            case ClipCapArchitecture():
                return ClipCap(architecture)
            case SohoArchitecture():
                return SOHO(architecture)
            case _:
                assert_never(architecture)
