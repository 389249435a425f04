"""capfilt: BLIP's CapFilt as software. Caption, filter, select and re-train on noisy web image-text pairs, round after round.

The public names are below; each imports what it needs when it is first used, so that `import capfilt` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from capfilt.config.load import load_pipeline
    from capfilt.config.pipeline import Pipeline
    from capfilt.model import Model, load_model
    from capfilt.modeling.blip2 import Blip2, QFormer
    from capfilt.modeling.clipcap import ClipCap
    from capfilt.modeling.coca import CoCa
    from capfilt.modeling.med import MED
    from capfilt.modeling.soho import SOHO
    from capfilt.report import write_report
    from capfilt.rounds import run_pipeline

__version__ = "0.1.0"
__all__ = [
    "MED",
    "SOHO",
    "Blip2",
    "ClipCap",
    "CoCa",
    "Model",
    "Pipeline",
    "QFormer",
    "__version__",
    "load_model",
    "load_pipeline",
    "run_pipeline",
    "write_report",
]

_HOMES = {
    "load_pipeline": "capfilt.config.load",
    "Pipeline": "capfilt.config.pipeline",
    "Model": "capfilt.model",
    "load_model": "capfilt.model",
    "MED": "capfilt.modeling.med",
    "CoCa": "capfilt.modeling.coca",
    "Blip2": "capfilt.modeling.blip2",
    "QFormer": "capfilt.modeling.blip2",
    "ClipCap": "capfilt.modeling.clipcap",
    "SOHO": "capfilt.modeling.soho",
    "run_pipeline": "capfilt.rounds",
    "write_report": "capfilt.report",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'capfilt' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return __all__
