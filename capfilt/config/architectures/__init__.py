"""What networks look like: one file per family, the typed form of its models/*.yaml; here the union that `kind` tells apart.

Knows nothing of weights, training recipes or torch.
"""

from pathlib import Path
from typing import Annotated

import yaml
from pydantic import Field, TypeAdapter, ValidationError

from capfilt.config.architectures.blip2 import Blip2Architecture
from capfilt.config.architectures.clipcap import ClipCapArchitecture
from capfilt.config.architectures.coca import CocaArchitecture
from capfilt.config.architectures.med import MedArchitecture
from capfilt.config.architectures.soho import SohoArchitecture
from capfilt.errors import ConfigError

Architecture = MedArchitecture | CocaArchitecture | Blip2Architecture | ClipCapArchitecture | SohoArchitecture
_ARCHITECTURE: TypeAdapter[Architecture] = TypeAdapter(Annotated[Architecture, Field(discriminator="kind")])


def load_architecture(path: Path | str) -> Architecture:
    """Read one architecture YAML.

    Raises:
        ConfigError: If the file is missing, is no YAML, or does not describe an architecture; names every wrong field.
    """
    path = Path(path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: expected an architecture YAML, found no file; check the name or write it") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: expected YAML, found {error}; correct the file") from None
    try:
        return _ARCHITECTURE.validate_python(content)
    except ValidationError as error:
        # A field's place begins with the kind, which is no key of the file.
        wrong = [(".".join(map(str, e["loc"][1:])) or "(top)", e["msg"], e["input"]) for e in error.errors()]
        lines = [f"{path} {where}: {what}, found {found!r}" for where, what, found in wrong]
        raise ConfigError("\n".join([*lines, "Expected the fields of an architecture YAML; correct the ones named."])) from None


def dump_architecture(architecture: Architecture) -> str:
    """The YAML text that `load_architecture` reads back to an equal object."""
    return yaml.safe_dump(architecture.model_dump(mode="json"), sort_keys=False)


def image_side(architecture: Architecture) -> int:
    """Side of the square pictures in pixels.

    Raises:
        ConfigError: If the network takes no pictures.
    """
    if architecture.image is None:
        raise ConfigError("expected a network that takes pictures, found one for stored embeddings alone (`image: null`)")
    return architecture.image.size
