"""One architecture YAML of whatever family its `kind` names.

Knows nothing of weights, training recipes or torch.
"""

from pathlib import Path
from typing import Annotated

import yaml
from pydantic import Field, TypeAdapter, ValidationError

from capfilt.config.architecture import MedArchitecture
from capfilt.config.architectures.blip2 import Blip2Architecture
from capfilt.config.architectures.clipcap import ClipCapArchitecture
from capfilt.config.architectures.coca import CocaArchitecture
from capfilt.config.architectures.soho import SohoArchitecture
from capfilt.errors import ConfigError

AnyArchitecture = MedArchitecture | CocaArchitecture | Blip2Architecture | ClipCapArchitecture | SohoArchitecture
_ANY: TypeAdapter[AnyArchitecture] = TypeAdapter(Annotated[AnyArchitecture, Field(discriminator="kind")])


def load_any_architecture(path: Path | str) -> AnyArchitecture:
    """Read one architecture YAML.

    Raises:
        ConfigError: If the file is missing, is no YAML, or does not describe an architecture; names every wrong field.
    """
    path = Path(path)
    try:
        return _ANY.validate_python(yaml.safe_load(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise ConfigError(f"{path}: expected an architecture YAML, found no file; check the name or write it") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: expected YAML, found {error}; correct the file") from None
    except ValidationError as error:
        wrong = [(".".join(map(str, e["loc"])) or "(top)", e["msg"], e["input"]) for e in error.errors()]
        lines = [f"{path} {where}: {what}, found {found!r}" for where, what, found in wrong]
        raise ConfigError("\n".join([*lines, "Expected the fields of an architecture YAML; correct the ones named."])) from None
