"""Why a selection kept nothing, in one sentence, and what to do about it.

Reads counts that are there already; decides nothing.
"""

import math

import numpy as np

from capfilt.config.select import CALLED, SelectConfig
from capfilt.schema import REASONS
from capfilt.stages.policy import CODE
from capfilt.stages.tally import Tally


def why_nothing(tally: Tally, config: SelectConfig) -> str:
    """The reason that most texts have, of those whose picture takes part."""
    if not tally.healthy:
        return f"none of {tally.rows:,} pictures takes part. The funnel of the report says why"
    of_reason = {name: int(tally.reasons[:, code].sum()) for name, code in CODE.items() if name != "row_not_ok"}
    total = sum(of_reason.values())
    if not total:
        return f"none of {tally.healthy:,} pictures has a text. Name a captioner, or the column of the web text (read.columns)"
    main = max(of_reason, key=lambda name: of_reason[name])
    many = f"all {total:,} texts" if of_reason[main] == total else f"{of_reason[main]:,} of {total:,} texts"
    match main:
        case "below_threshold":
            return _below(many, tally, config)
        case "rule":
            return f"{many} are rejected by text rules. Relax screen.text"
        case "error":
            return f"{many} could not be made or scored. Their `error` in the candidates says why (capfilt explain RUN UID)"
        case "not_chosen":
            return f"{many} pass, but none that select.policy: {config.policy} wants. Write policy: both"
        case "contaminated":
            return (
                f"{many} pass, but their pictures are in an evaluation set. Look at dedup/contamination.parquet; where they are "
                "not the same, raise dedup.min_cosine"
            )
        case _:
            return f"{many}: {REASONS[main]}"


def _below(many: str, tally: Tally, config: SelectConfig) -> str:
    if not config.differs:
        score, least = config.usual
        highest = _down(tally.highest)
        return (
            f"{many} are below {CALLED[score]} {least:g} (highest {highest:g}). Lower select.min_{score} (capfilt select RUN "
            f"--name lower --set select.min_{score}={highest:g} shows in seconds what that keeps), or make a better filter"
        )
    each = [f"{name} {own.threshold} (highest {_down(own.highest):g})" for name, own in sorted(tally.filters.items())]
    whose = "thresholds of half of the filters or more" if config.combine == "vote" else "threshold of a filter"
    return f"{many} are below the {whose}: {', '.join(each)}. Lower one (select.by, select.min_itm)"


def _down(score: float) -> float:
    """To three digits and not up, so that a score is not shown to reach what it does not; 0.9 as float32 is 0.9."""
    near = round(score, 3)
    return near if np.float32(near) <= np.float32(score) else math.floor(score * 1000) / 1000
