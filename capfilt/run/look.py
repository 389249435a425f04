"""The models of a run by content, each hashed and loaded at most once, in however many pairs it is compared.

Knows MEDs alone; says nothing of what equal content means.
"""

from typing import TYPE_CHECKING, cast

from capfilt.errors import CheckpointError, ConfigError
from capfilt.run.scratch import local_folder
from capfilt.run.steps import model_identity

if TYPE_CHECKING:
    from capfilt.modeling.med.network import MED
    from capfilt.modeling.trunk import Fingerprint

_FINGERPRINTS: dict[str, "Fingerprint"] = {}
"""Of this process, by content: what was compared before any work is not loaded again for a round."""


class Look:
    """At the models of a run, each at most once: `identity` hashes its files, `fingerprint` loads it, on the CPU."""

    def __init__(self) -> None:
        self._identities: dict[str, str] = {}

    def identity(self, source: str) -> str:
        if source not in self._identities:
            self._identities[source] = model_identity(source) or ""
        return self._identities[source]

    def fingerprint(self, source: str) -> "Fingerprint | None":
        """Of a MED; of others, which may be large and are not compared, and of what is not to be had here, None."""
        from capfilt.modeling.families import load_network
        from capfilt.modeling.trunk import fingerprint

        identity = self.identity(source)
        if identity not in _FINGERPRINTS:
            try:
                with local_folder(source) as folder:
                    _FINGERPRINTS[identity] = fingerprint(cast("MED", load_network(folder).model))
            except (CheckpointError, ConfigError):
                return None  # on a cluster, the workers' machines may have it; where they have not, they say so
        return _FINGERPRINTS[identity]

    def is_med(self, source: str) -> bool:
        from capfilt.modeling.families import kind_of

        if self.identity(source) in _FINGERPRINTS:
            return True
        try:
            with local_folder(source) as folder:
                return kind_of(folder) == "med"
        except (CheckpointError, ConfigError):
            return False
