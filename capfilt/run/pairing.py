"""How the captioner and the filter of a round belong together, by content: apart, with one image encoder, or the same weights.

Says whether caption and filter run as one stage; refuses one set of weights in both roles. Knows nothing of how they are run.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any, Literal, assert_never

from capfilt.config.pipeline import Pipeline
from capfilt.config.round import AnyModel, CustomModel, NamedModel, TrainedModel
from capfilt.errors import ConfigError
from capfilt.run import files
from capfilt.run.build import Job
from capfilt.run.look import Look
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

    Of several captioners or filters, the two that are closest. What was found is kept in events/pairing.jsonl, the closest last,
    so that the models are loaded once; within a start each is, however many pairs it is in.

    Raises:
        ConfigError: If a captioner and a filter are the same weights and `filter.allow_shared_weights` is not set.
    """
    pipeline = job.pipeline
    lines = [line for line in files.lines(pipeline.output, "pairing") if line.get("phase") == job.name]
    found: list[Pairing] = []
    look = Look()
    for captioner, scorer in product(pipeline.captioners, pipeline.filters):
        sources = _source(captioner, job.captioner), _source(scorer, job.scorer)
        if None in sources or (_both_trained(captioner, scorer) and not _on_one_trunk(pipeline)):
            continue
        kin = _kin(lines, str(sources[0]), str(sources[1]), look)
        if kin is not None:
            _refuse(kin, pipeline)
            found.append(kin)
    if not found:
        return job, None
    found.sort(key=lambda kin: (kin.weights == "shared", kin.trunk == "shared"))
    if found[-1].trunk == "shared":
        apart = _apart(pipeline)
        found[-1] = replace(found[-1], fused=not apart, apart=apart)
    told = [{"phase": job.name, **asdict(kin)} for kin in found]
    if lines[-len(told) :] != told:
        for line in told:
            files.append_line(pipeline.output, "pairing", line)
    return replace(job, fused=found[-1].fused), found[-1]


def _source(model: AnyModel, trained: str | None) -> str | None:
    """Where its weights lie; None for a model that only its own code knows."""
    match model:
        case TrainedModel():
            return trained
        case NamedModel(checkpoint=checkpoint):
            return checkpoint
        case CustomModel():
            return None
        case _ as unreachable:
            assert_never(unreachable)


def _both_trained(captioner: AnyModel, scorer: AnyModel) -> bool:
    return isinstance(captioner, TrainedModel) and isinstance(scorer, TrainedModel)


def _on_one_trunk(pipeline: Pipeline) -> bool:
    """Whether this run fine-tunes captioner and filter on one image encoder; else it makes them different weights throughout."""
    return pipeline.finetune is not None and pipeline.finetune.trunk == "shared"


def _kin(lines: Sequence[Mapping[str, Any]], captioner: str, scorer: str, look: Look) -> Pairing | None:
    """Two models by content, from `lines` where they tell it."""
    identities = [look.identity(source) for source in (captioner, scorer)]
    known = [line for line in lines if [line.get(role) for role in ("captioner", "filter")] == identities]
    kin = (known[-1]["trunk"], known[-1]["weights"]) if known else compare(captioner, scorer, look)
    return None if kin is None else Pairing(identities[0], identities[1], *kin)


def foreseen(pipeline: Pipeline) -> list[str]:
    """Lines for a plan: what the settings say of captioner and filter, and what a start of the run has seen. Loads no model."""
    if pipeline.caption is None or pipeline.filter is None:
        return []
    notes = []
    if pipeline.finetune is not None and pipeline.finetune.trunk == "shared":
        notes.append("captioner and filter are fine-tuned on one frozen image encoder (finetune.trunk: shared)")
    if pipeline.filter.allow_shared_weights:
        for captioner, scorer in _named_pairs(pipeline):
            if captioner == scorer or model_identity(captioner) == model_identity(scorer):
                notes.append(f"BEWARE: captioner and filter are the same weights (filter.allow_shared_weights); {OVERLOOKS}")
    for number in range(1, pipeline.rounds + 1):
        phase = f"round-{number}/candidates"
        lines = [line for line in files.lines(pipeline.output, "pairing") if line.get("phase") == phase]
        told = Pairing(**{name: value for name, value in lines[-1].items() if name != "phase"}).told if lines else None
        notes += [f"round {number}: {told}"] if told else []
    return notes


def check_checkpoints(pipeline: Pipeline) -> None:
    """Whether named checkpoints are different weights, before any work.

    Raises:
        ConfigError: If a captioner and a filter are the same, and that is not allowed.
    """
    look = Look()
    for captioner, scorer in _named_pairs(pipeline):
        kin = compare(captioner, scorer, look)
        if kin is not None:
            _refuse(Pairing(captioner, scorer, *kin), pipeline)


def _named_pairs(pipeline: Pipeline) -> Iterator[tuple[str, str]]:
    """Captioner and filter, of all that are checkpoints."""
    written = [model.checkpoint for model in pipeline.captioners if isinstance(model, NamedModel)]
    read = [model.checkpoint for model in pipeline.filters if isinstance(model, NamedModel)]
    return product(written, read)


def compare(captioner: str, scorer: str, look: Look | None = None) -> tuple[Kinship, Kinship] | None:
    """Image encoders and whole weights of two models. MEDs are loaded, on the CPU; of others, and of what is not to be had here,
    only equal files are noticed, and None says that nothing is known."""
    from capfilt.modeling.trunk import share_weights

    look = look or Look()
    are_meds = look.is_med(captioner) and look.is_med(scorer)
    one, other = (look.fingerprint(source) for source in (captioner, scorer)) if are_meds else (None, None)
    if one is None or other is None:
        return ("separate", "shared") if look.identity(captioner) == look.identity(scorer) else None
    if one.trunk != other.trunk:
        return "separate", "separate"
    return "shared", "shared" if share_weights(one, other) else "separate"


def _refuse(found: Pairing, pipeline: Pipeline) -> None:
    if found.weights == "shared" and pipeline.filter is not None and not pipeline.filter.allow_shared_weights:
        raise ConfigError(
            f"filter.filter: expected other weights than the captioner's, found the same in {found.captioner} and "
            f"{found.filter}; {OVERLOOKS}. Name another checkpoint for one of them, or write filter.allow_shared_weights: true"
        )


def _apart(pipeline: Pipeline) -> str:
    """Why pictures that both encode alike are not encoded once; empty where they are."""
    caption, score = pipeline.caption, pipeline.filter
    assert caption is not None
    assert score is not None
    if len(pipeline.captioners) > 1 or len(pipeline.filters) > 1:
        return "there are several captioners or filters"
    if not pipeline.resources.fuse:
        return "resources.fuse is false"
    for name in ("batch_size", "dtype", "pixels"):
        if getattr(caption, name) != getattr(score, name):
            return f"caption.{name} {getattr(caption, name)} and filter.{name} {getattr(score, name)} differ"
    return ""
