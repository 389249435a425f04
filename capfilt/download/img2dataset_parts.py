"""Single modules of img2dataset, without the programme around them.

The package's own `__init__` imports all of it, writers, loggers and distributors, and with them torch, webdataset and more: two
seconds and 250 MB in every download actor, for three classes.
"""

import sys
import threading
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from types import ModuleType

PACKAGE = "img2dataset"
_lock = threading.Lock()  # an unfinished package in sys.modules is nothing for a second thread to meet


def load(name: str) -> ModuleType:
    """The module `img2dataset.<name>` and what it imports itself. Whoever imports the package later gets it whole."""
    with _lock:
        spec = None if PACKAGE in sys.modules else find_spec(PACKAGE)
        if spec is None:
            return import_module(f"{PACKAGE}.{name}")
        sys.modules[PACKAGE] = module_from_spec(spec)  # not executed
        try:
            return import_module(f"{PACKAGE}.{name}")
        finally:
            del sys.modules[PACKAGE]
