"""From an architecture to a network with fresh weights.

Knows nothing of checkpoints.
"""

import torch

from capfilt.config.architecture import Architecture
from capfilt.modeling.med.network import MED


def build(architecture: Architecture, *, seed: int = 0) -> MED:
    """The network, weights drawn from `seed` alone; torch's global generator is left as it was.

    The second family turns this into one `match` over the architecture's kind.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MED(architecture)
