"""Finds a YAML by its public name: beside the pipeline file, in the current folder's `pipelines` or `models`, or bundled.

Knows nothing of what is in the file.
"""

from pathlib import Path
from typing import Literal

from capfilt.config.explain import nearest
from capfilt.errors import ConfigError


def bundled(kind: Literal["pipelines", "models"]) -> Path:
    """The folder that ships with capfilt: inside the wheel, or the repository's own in a source checkout."""
    package = Path(__file__).parent.parent
    inside = package / "_bundled" / kind
    return inside if inside.is_dir() else package.parent / kind


def find_yaml(name: str | Path, kind: Literal["pipelines", "models"], beside: Path | None = None) -> Path:
    """The file called `name`, with or without `.yaml`; a path is taken as it is, relative to `beside`'s folder first.

    Args:
        beside: The pipeline file (or folder) in which the name was written.

    Raises:
        ConfigError: If there is none; lists the names there are.
    """
    text = str(name)
    file = Path(text if text.endswith((".yaml", ".yml")) else text + ".yaml").expanduser()
    near = None if beside is None else beside if beside.is_dir() else beside.parent
    folders = [folder for folder in (near, Path(), Path(kind), bundled(kind)) if folder is not None]
    if not (file.is_absolute() or file.parent != Path()):
        # A bare name in the current folder counts only as a pipeline: `capfilt run mine.yaml`.
        folders = [folder for folder in folders if folder != Path() or kind == "pipelines"]
    for folder in folders:
        if (folder / file).is_file():
            return folder / file
    choices = sorted({path.stem for folder in (near, Path(kind), bundled(kind)) if folder for path in folder.glob("*.yaml")})
    what = "a pipeline" if kind == "pipelines" else "an architecture"
    looked = ", ".join(str(folder) for folder in dict.fromkeys(folders))
    raise ConfigError(
        f"expected {what} file, found no '{name}' in {looked}. Give a path or one of: {', '.join(choices) or '(none)'}."
        + nearest(file.stem, choices)
    )
