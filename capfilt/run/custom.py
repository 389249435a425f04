"""Models of the user's own code: what can be known of them before they are built, on the machine that drives the run.

Knows no other model.
"""

from collections.abc import Iterator
from inspect import isclass

from capfilt.config.pipeline import Pipeline
from capfilt.config.round import CustomModel
from capfilt.errors import ConfigError


def check_custom(pipeline: Pipeline) -> None:
    """Whether each can be imported, takes its options and, where it is a class, has the method that a stage calls.

    Raises:
        ConfigError: If not.
    """
    for key, model, method in _custom(pipeline):
        found = model.imported(key)
        if isclass(found) and not callable(getattr(found, method, None)):
            raise ConfigError(
                f"{key}.target: expected a class with the method `{method}` (docs/extending.md shows one), found none in "
                f"{model.target}. Write it"
            )


def compares_bytes_alone(pipeline: Pipeline) -> list[str]:
    """A line for people where `dedup.decontaminate` will overlook evaluation pictures; a function's model is not known here."""
    if pipeline.dedup is None or not pipeline.dedup.decontaminate or not isinstance(pipeline.filters[0], CustomModel):
        return []
    first = pipeline.filters[0]
    found = first.imported("filter.filter")
    if not isclass(found) or all(hasattr(found, name) for name in ("embed_images", "embed_texts")):
        return []
    return [
        f"dedup.decontaminate: {first.target} has no embed_images and embed_texts, so evaluation pictures are compared by their "
        "bytes alone; copies of another size or quality are not found"
    ]


def _custom(pipeline: Pipeline) -> Iterator[tuple[str, CustomModel, str]]:
    """Key, model and the method that its stage calls."""
    for key, models, method in (
        ("caption.captioner", pipeline.captioners, "caption"),
        ("filter.filter", pipeline.filters, "score"),
    ):
        for at, model in enumerate(models):
            if isinstance(model, CustomModel):
                yield (key if len(models) == 1 else f"{key}.{at}"), model, method
