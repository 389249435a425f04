"""How the captioner and the filter of a round belong together, by content: apart, with one image encoder, or the same weights.

Says whether caption and filter run as one stage; refuses one set of weights in both roles. Knows nothing of how they are run.
"""

from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from capfilt.config.pipeline import Pipeline
from capfilt.config.round import CaptionConfig, CustomModel, FilterConfig, NamedModel
from capfilt.errors import CheckpointError, ConfigError
from capfilt.run import files
from capfilt.run.build import Job
from capfilt.run.scratch import local_folder
from capfilt.run.steps import model_identity

Kinship = Literal["separate", "shared"]
OVERLOOKS = "a filter overlooks the errors of its own captioner (BLIP Table 4: 8 % instead of 25 % noise found)"


@dataclass(frozen=True)
class Pairing:
    """`trunk`: the image encoders, by content. `weights`: the text side too. `apart`: why equal encoders are not fused."""

    captioner: str
    filter: str
    trunk: Kinship = "separate"
    weights: Kinship = "separate"
    fused: bool = False
    apart: str = ""

    @property
    def told(self) -> str | None:
        """One line for people; None where there is nothing to tell."""
        if self.weights == "shared":
            return f"captioner and filter are the same weights (filter.allow_shared_weights): {OVERLOOKS}"
        if self.trunk == "separate":
            return None
        how = "caption and filter run as one, and each picture is encoded once" if self.fused else f"they run apart: {self.apart}"
        return f"captioner and filter share their image encoder; {how}"


def paired(job: Job) -> tuple[Job, Pairing | None]:
    """A round's job, told whether caption and filter run as one, and how its models belong together (None: not to be known).

    What was found is kept in events/pairing.jsonl, so that the models are loaded once.

    Raises:
        ConfigError: If both are the same weights and `filter.allow_shared_weights` is not set.
    """
    caption, score = job.pipeline.caption, job.pipeline.filter
    if caption is None or score is None or CustomModel in (type(caption.captioner), type(score.filter)):
        return job, None
    if job.captioner and job.scorer and (job.pipeline.finetune is None or job.pipeline.finetune.trunk == "separate"):
        return job, None  # this run fine-tuned them apart
    sources = job.captioner or _checkpoint(caption.captioner), job.scorer or _checkpoint(score.filter)
    identities = [model_identity(source) or "" for source in sources]
    lines = [line for line in files.lines(job.pipeline.output, "pairing") if line.get("phase") == job.name]
    known = lines[-1] if lines and [lines[-1].get(role) for role in ("captioner", "filter")] == identities else None
    kin = compare(*sources) if known is None else (known["trunk"], known["weights"])
    if kin is None:
        return job, None
    found = Pairing(identities[0], identities[1], *kin)
    _refuse(found, job.pipeline)
    if found.trunk == "shared":
        apart = _apart(caption, score, job.pipeline)
        found = replace(found, fused=not apart, apart=apart)
    line = {"phase": job.name, **asdict(found)}
    if lines[-1:] != [line]:
        files.append_line(job.pipeline.output, "pairing", line)
    return replace(job, fused=found.fused), found


def foreseen(pipeline: Pipeline) -> list[str]:
    """Lines for a plan: what the settings say of captioner and filter, and what a start of the run has seen. Loads no model."""
    if pipeline.caption is None or pipeline.filter is None:
        return []
    models = pipeline.caption.captioner, pipeline.filter.filter
    notes = []
    if pipeline.finetune is not None and pipeline.finetune.trunk == "shared":
        notes.append("captioner and filter are fine-tuned on one frozen image encoder (finetune.trunk: shared)")
    if pipeline.filter.allow_shared_weights and all(isinstance(model, NamedModel) for model in models):
        sources = [_checkpoint(model) for model in models]
        if sources[0] == sources[1] or model_identity(sources[0]) == model_identity(sources[1]):
            notes.append(f"BEWARE: captioner and filter are the same weights (filter.allow_shared_weights); {OVERLOOKS}")
    for number in range(1, pipeline.rounds + 1):
        phase = f"round-{number}/candidates"
        lines = [line for line in files.lines(pipeline.output, "pairing") if line.get("phase") == phase]
        told = Pairing(**{name: value for name, value in lines[-1].items() if name != "phase"}).told if lines else None
        notes += [f"round {number}: {told}"] if told else []
    return notes


def check_checkpoints(pipeline: Pipeline) -> None:
    """Whether two named checkpoints are different weights, before any work.

    Raises:
        ConfigError: If they are the same, and that is not allowed.
    """
    assert pipeline.caption is not None
    assert pipeline.filter is not None
    sources = _checkpoint(pipeline.caption.captioner), _checkpoint(pipeline.filter.filter)
    kin = compare(*sources)
    if kin is not None:
        _refuse(Pairing(*sources, *kin), pipeline)


def compare(captioner: str, scorer: str) -> tuple[Kinship, Kinship] | None:
    """Image encoders and whole weights of two models. MEDs are loaded, on the CPU; of others, and of what is not to be had here,
    only equal files are noticed, and None says that nothing is known."""
    from capfilt.modeling.trunk import share_weights, trunk_identity
    from capfilt.modeling.weights import load_model

    try:
        with ExitStack() as stack:
            one, other = (load_model(stack.enter_context(local_folder(source))) for source in (captioner, scorer))
    except (CheckpointError, ConfigError):
        # On a cluster, the workers' machines may have it; where they have not, they say so.
        return ("separate", "shared") if model_identity(captioner) == model_identity(scorer) else None
    if trunk_identity(one.model, one.architecture) != trunk_identity(other.model, other.architecture):
        return "separate", "separate"
    return "shared", "shared" if share_weights(one.model, other.model) else "separate"


def _refuse(found: Pairing, pipeline: Pipeline) -> None:
    if found.weights == "shared" and pipeline.filter is not None and not pipeline.filter.allow_shared_weights:
        raise ConfigError(
            f"filter.filter: expected other weights than the captioner's, found the same in {found.captioner} and "
            f"{found.filter}; {OVERLOOKS}. Name another checkpoint for one of them, or write filter.allow_shared_weights: true"
        )


def _apart(caption: CaptionConfig, score: FilterConfig, pipeline: Pipeline) -> str:
    """Why pictures that both encode alike are not encoded once; empty where they are."""
    if not pipeline.resources.fuse:
        return "resources.fuse is false"
    for name in ("batch_size", "dtype", "pixels"):
        if getattr(caption, name) != getattr(score, name):
            return f"caption.{name} {getattr(caption, name)} and filter.{name} {getattr(score, name)} differ"
    return ""


def _checkpoint(model: Any) -> str:
    return str(model.checkpoint)
