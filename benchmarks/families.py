"""All families in one table: each trained from scratch in the quickstart's world, captioning and filtering the same pictures.

    python benchmarks/families.py world                 # the small web, downloaded and screened
    python benchmarks/families.py train med coca soho   # in order; a stopped training goes on; several calls may run at once
    python benchmarks/families.py train blip2 clipcap   # they look with `med`'s eyes
    python benchmarks/families.py train blip2_lm        # stage 2: `blip2`'s queries before `clipcap`'s GPT-2, which is frozen
    python benchmarks/families.py measure               # prints the tables, writes benchmarks/results/families.json

Each network learns as in round 0 of pipelines/quickstart_*.yaml: pre-trained on raw web pairs and human pairs, then fine-tuned to
the roles it has. Times are CPU seconds of one thread, which other work on the machine hardly changes. The matrix asks what BLIP's
Table 4 asks: how many of captioner A's errors does filter B miss? And do all of them together miss fewer?
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "families.json"
FAMILIES: dict[str, dict[str, Any]] = {
    "med": {"losses": {"itc": 1, "itm": 1, "lm": 1}, "captioner": {"lm": 1}, "filter": {"itc": 1, "itm": 1}},
    "coca": {"losses": {"itc": 1, "lm": 2}, "captioner": {"lm": 1}, "filter": {"itc": 1}},
    "blip2": {"losses": {"itc": 1, "itm": 1, "lm": 1}, "captioner": {"lm": 1}, "filter": {"itc": 1, "itm": 1}, "eyes": "med"},
    "clipcap": {"losses": {"lm": 1}, "captioner": {"lm": 1}, "eyes": "med"},
    "blip2_lm": {"losses": {"lm": 1}, "captioner": {"lm": 1}, "eyes": "blip2", "words": "clipcap"},
    "soho": {"losses": {"mlm": 1, "mvm": 1, "itm": 1}, "filter": {"itm": 1}},
}
"""Losses of pre-training and of the two roles; whose image side a family looks with, whose language model it has."""
ARCHITECTURES = {"blip2_lm": "blip2_tiny_lm"}
PROMPT = "a picture of "
BEAM: Any = {"kind": "beam", "beams": 3, "max_length": 28}
NUCLEUS: Any = {"kind": "nucleus", "top_p": 0.9, "temperature": 0.7, "min_length": 5, "max_length": 28}


def pool(folder: Path, pictures: int, seed: int) -> Path:
    """The quickstart's run folder with its pool: downloaded and screened, nothing else."""
    from capfilt.config.load import load_pipeline
    from capfilt.rounds import run_pipeline
    from capfilt.run.progress import SilentProgress

    settings = [f"output={folder}/world", f"seed={seed}", f"miniweb.pictures={pictures}", "resources.executor=local"]
    pipeline = load_pipeline("quickstart", [*settings, "rounds=1"])
    run_pipeline(pipeline, source=Path("quickstart.yaml"), progress=SilentProgress(), until="screen")
    return folder / "world"


class Clock:
    """CPU seconds per step, from the first report on: what comes before is reading and compiling."""

    def __init__(self) -> None:
        self.first: tuple[int, float] | None = None
        self.last: tuple[int, float] = (0, 0.0)

    def __call__(self, report: Any) -> None:
        self.last = (report.step, time.process_time())
        self.first = self.first or self.last
        if report.step % 50 == 0 or report.step == report.steps:
            print(f"  step {report.step:,} of {report.steps:,}: {report.losses}", flush=True)

    @property
    def seconds_per_step(self) -> float | None:
        if self.first is None or self.last[0] == self.first[0]:
            return None
        return (self.last[1] - self.first[1]) / (self.last[0] - self.first[0])


@dataclass(frozen=True)
class World:
    """What the families learn from, and how."""

    human: Path
    web: tuple[str, ...]
    """Chunks of the pool."""
    architecture: Callable[[str], str] = lambda name: ARCHITECTURES.get(name, f"{name}_tiny")
    """The architecture of a family."""
    device: str = "cpu"
    web_share: float = 0.8
    warmup_steps: int = 50
    finetune_lr: float = 0.0005
    both: dict[str, Any] = field(default_factory=lambda: {"threads": 1, "checkpoint_every_steps": 100})
    """Settings of pre-training and fine-tuning."""


def quickstart_world(arguments: argparse.Namespace) -> World:
    world = arguments.out / "world"
    return World(world / "miniweb" / "human.parquet", tuple(map(str, sorted((world / "pool").glob("chunk-*.parquet")))))


def train(name: str, arguments: argparse.Namespace, world: World) -> None:
    from capfilt.config.train import FinetuneCaptioner, FinetuneModel, Losses, Mix, PretrainConfig
    from capfilt.training import WebPairs, finetune_captioner, finetune_filter, pretrain

    own, human = FAMILIES[name], str(world.human)
    web = WebPairs(world.web, "pool")
    common = {"seed": arguments.seed, "device": world.device}

    def part(role: str) -> dict[str, Any]:
        return {"out": arguments.out / name / role, "work": arguments.out / name / f"training-{role}", **common}

    def timed(role: str, make: Any) -> None:
        if (arguments.out / name / role).exists():
            return
        print(f"{name} {role}", flush=True)
        clock = Clock()
        make(clock)
        told = {"seconds_per_step": clock.seconds_per_step, "batch_size": arguments.batch if role == "pretrained" else 32}
        (arguments.out / name / f"{role}.json").write_text(json.dumps(told))

    config = PretrainConfig(
        architecture=world.architecture(name),
        mix=Mix(web=world.web_share, human=1 - world.web_share),
        human=human,
        losses=Losses(**own["losses"]),
        steps=arguments.steps,
        batch_size=arguments.batch,
        lr=arguments.lr,
        warmup_steps=world.warmup_steps,
        **world.both,
    )
    eyes, words = (arguments.out / own[what] / "pretrained" if what in own else None for what in ("eyes", "words"))
    timed(
        "pretrained",
        lambda clock: pretrain(config, web=web, prompt=PROMPT, image=eyes, text=words, on_step=clock, **part("pretrained")),
    )
    tuned = {"steps": arguments.finetune_steps, "batch_size": 32, "lr": world.finetune_lr, "warmup_steps": 20, **world.both}
    start = arguments.out / name / "pretrained"
    if "captioner" in own:
        asked = FinetuneCaptioner(losses=Losses(**own["captioner"]), **tuned)
        timed(
            "captioner",
            lambda clock: finetune_captioner(asked, human, start=start, prompt=PROMPT, on_step=clock, **part("captioner")),
        )
    if "filter" in own:
        wanted = FinetuneModel(losses=Losses(**own["filter"]), **tuned)
        timed("filter", lambda clock: finetune_filter(wanted, human, start=start, on_step=clock, **part("filter")))


def measure(arguments: argparse.Namespace) -> None:
    """Of what is trained: retrieval and captions on held-out pairs, scores of web and synthetic texts of the same pictures."""
    import torch

    torch.set_num_threads(1)
    asked = arguments.families or FAMILIES
    known = [name for name in asked if all((arguments.out / name / role).exists() for role in _roles(name))]
    truth, pictures, web_texts = _pictures(arguments.out / "world", arguments.judged)
    table: dict[str, Any] = {name: _held_out(name, arguments) for name in known}
    written: dict[str, list[str]] = {}
    for name in known:
        if (arguments.out / name / "captioner").exists():
            written[name], table[name]["captions_per_cpu_s"] = _written(arguments.out / name / "captioner", name, pictures)
            told = [known_of.is_true(text) for known_of, text in zip(truth, written[name], strict=True)]
            table[name]["true_synthetic"] = sum(map(bool, told)) / len(told)
    texts = {WEB: web_texts, **written}
    is_true = {of: [bool(known_of.is_true(text)) for known_of, text in zip(truth, own, strict=True)] for of, own in texts.items()}
    scores_of: dict[str, dict[str, Any]] = {of: {} for of in texts}  # whose texts, filter -> [N]
    for name in known:
        if not (arguments.out / name / "filter").exists():
            continue
        asked_of = [list(own) for own in zip(*texts.values(), strict=True)]
        scores_NT, table[name]["filtered_per_cpu_s"] = _scored(arguments.out / name / "filter", pictures, asked_of)
        for column, of in enumerate(texts):
            scores_of[of][name] = scores_NT[:, column]
        table[name]["roc_auc_web"], _ = _missed(scores_NT[:, 0], is_true[WEB])
    matrix: dict[str, dict[str, Any]] = {of: {} for of in texts}
    for of, by_filter in scores_of.items():
        together = {f"(together: {how})": scores_N for how, scores_N in _together(by_filter, is_true[of]).items()}
        for name, scores_N in {**by_filter, **together}.items():
            auc, missed = _missed(scores_N, is_true[of])
            matrix[of][name] = {"roc_auc": auc, "missed": missed, "false": is_true[of].count(False)}
    result = {
        "what": "families trained from scratch in the quickstart's world, round 0; one seed, one run each",
        "settings": {
            "pictures": arguments.pictures,
            "batch": arguments.batch,
            "lr": arguments.lr,
            "seed": arguments.seed,
            "judged_pictures": len(pictures),
            "heldout_pictures": arguments.heldout,
            "kept_true": KEPT_TRUE,
        },
        "families": table,
        "missed_of_captioner_by_filter": matrix,
    }
    arguments.results.write_text(json.dumps(_rounded(result), indent=1) + "\n")
    _print(table, matrix)


WEB = "(web)"
"""Whose texts those of the pool are."""
KEPT_TRUE = 0.9
"""Share of the true synthetic texts that each filter's threshold keeps, so that filters with other scores can be compared."""


def _roles(name: str) -> list[str]:
    return ["pretrained", *(role for role in ("captioner", "filter") if role in FAMILIES[name])]


def _pictures(world: Path, count: int) -> tuple[list[Any], list[Any], list[str]]:
    """The first healthy pictures of the pool whose web text no rule rejected: truth, RGB pictures, web texts."""
    import pyarrow.parquet as pq

    from capfilt.evaluation.truth import read_truth
    from capfilt.images import decode_rgb

    truth = read_truth(str(world / "miniweb" / "truth.parquet"))
    found: list[tuple[Any, Any, str]] = []
    for path in sorted((world / "pool").glob("chunk-*.parquet")):
        for row in pq.read_table(path, columns=["url", "status", "image", "captions"]).to_pylist():
            web = [text["text"] for text in row["captions"] or [] if text["rule"] is None and text["error"] is None]
            if row["status"] == "ok" and web and len(found) < count:
                found.append((truth[row["url"]], decode_rgb(row["image"]), web[0]))
    return [one[0] for one in found], [one[1] for one in found], [one[2] for one in found]


def _held_out(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Recall of the pre-trained network, CIDEr-D and truth of the captioner, on held-out pairs; and what training cost."""
    import pyarrow.parquet as pq

    from capfilt.config.evaluate import CaptioningConfig, EvaluateConfig, RetrievalConfig
    from capfilt.config.select import SelectConfig
    from capfilt.evaluation import evaluate

    own, miniweb = FAMILIES[name], arguments.out / "world" / "miniweb"
    has_ranks = "filter" in own
    heldout = arguments.out / "heldout.parquet"
    pq.write_table(pq.read_table(miniweb / "heldout.parquet").slice(0, arguments.heldout), heldout)
    asked = EvaluateConfig(
        heldout=str(heldout),
        truth=str(miniweb / "truth.parquet"),
        retrieval=RetrievalConfig(model="filter", rerank_top_k=16 if {"itc", "itm"} <= set(own["filter"]) else 0)
        if has_ranks
        else None,
        captioning=CaptioningConfig(measures=["cider_d", "exact_scene"], decode=BEAM) if "captioner" in own else None,
    )
    models = {role: arguments.out / name / role for role in ("captioner", "filter")}
    found = evaluate(
        asked,
        models=models,
        candidates=(),
        selection=None,
        round_number=0,
        seed=arguments.seed,
        device="cpu",
        prompt=PROMPT,
        policy=SelectConfig(),
    )
    captioning = found["captioning"] or {}
    return {
        **_cost(name, arguments.out / name),
        "mean_recall_at_1": (found["primary"] or {}).get("value"),
        "mean_recall_at_1_interval": (found["primary"] or {}).get("interval"),
        "cider_d": captioning.get("cider_d"),
        "true_captions": captioning.get("true"),
        "true_captions_interval": captioning.get("true_interval"),
    }


def _cost(name: str, folder: Path) -> dict[str, Any]:
    """Sizes of a family's pre-trained network, and what its training took."""
    from capfilt.modeling.families import load_network

    model = load_network(folder / "pretrained").model
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "learning": sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        "steps": _steps(folder / "training-pretrained"),
        "finetune_steps": _steps(folder / f"training-{_roles(name)[-1]}"),
        "cpu_seconds_per_step": json.loads((folder / "pretrained.json").read_text())["seconds_per_step"],
    }


def _steps(training: Path) -> int:
    """That were done, by the log: families may have been given different numbers."""
    return int(json.loads((training / "log.jsonl").read_text().splitlines()[-1])["step"])


def _written(folder: Path, name: str, pictures: list[Any]) -> tuple[list[str], float]:
    """A synthetic text per picture, as the quickstart's captioner writes them; and pictures per CPU second."""
    from capfilt.captioners import build_captioner
    from capfilt.config.round import CaptionConfig
    from capfilt.identity import row_seed

    asked = {"captioner": {"kind": "trained"}, "prompt": PROMPT, "decode": NUCLEUS}
    captioner = build_captioner(CaptionConfig.model_validate(asked), trained=str(folder), device="cpu")
    seeds = [[row_seed(0, 0, "caption", name, str(i), 0)] for i in range(len(pictures))]
    started = time.process_time()
    texts = [texts[0].text for texts in captioner.caption(pictures, seeds=seeds)]
    return texts, len(pictures) / (time.process_time() - started)


def _scored(folder: Path, pictures: list[Any], texts: list[list[str]], device: str = "cpu") -> tuple[Any, float]:
    """Scores [pictures, texts], ITM where the family has it, else the cosine; and pictures per CPU second with one text each."""
    import numpy as np

    from capfilt.config.round import FilterConfig
    from capfilt.filters import build_filter

    scorer = build_filter(FilterConfig.model_validate({"filter": {"kind": "trained"}}), trained=str(folder), device=device)
    started = time.process_time()
    scorer.score(pictures, [own[:1] for own in texts])
    rate = len(pictures) / (time.process_time() - started)
    scores = scorer.score(pictures, texts)
    return np.asarray(scores.itm if scores.itm is not None else scores.itc), rate


def _missed(scores_N: Any, is_true: list[bool]) -> tuple[float | None, float | None]:
    """ROC AUC, and the share of the false texts above the threshold that keeps `KEPT_TRUE` of the true ones."""
    import numpy as np

    from capfilt.evaluation.filter_quality import roc_auc

    true_N = np.asarray(is_true, dtype=bool)
    if true_N.all() or not true_N.any():
        return None, None
    threshold = np.quantile(scores_N[true_N], 1 - KEPT_TRUE)
    return roc_auc(scores_N.astype(np.float64), true_N), float((scores_N[~true_N] >= threshold).mean())


def _together(scores: dict[str, Any], is_true: list[bool]) -> dict[str, Any]:
    """All filters as one, by each way of `select.combine`, [N] each; empty where there is one filter, or no true text.

    Scores of different kinds are first put on one scale, their rank among the filter's scores of the true texts: a threshold on
    the combined scores then stands for own thresholds (`select.by`) that keep equally many true texts each.
    """
    import numpy as np

    from capfilt.stages.combine import combined

    true_N = np.asarray(is_true, dtype=bool)
    if len(scores) < 2 or not true_N.any():
        return {}
    ranks = [np.searchsorted(np.sort(own_N[true_N]), own_N, side="right") / true_N.sum() for own_N in scores.values()]
    ranks_NF = np.stack(ranks, axis=1)
    return {how: np.array([combined(row.tolist(), how) for row in ranks_NF]) for how in ("mean", "min", "vote")}


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    return [_rounded(inner) for inner in value] if isinstance(value, list | tuple) else value


def _print(table: dict[str, dict[str, Any]], matrix: dict[str, dict[str, Any]]) -> None:
    columns = list(dict.fromkeys(name for row in table.values() for name in row if not name.endswith("interval")))
    print("\t".join(["family", *columns]))
    for name, row in table.items():
        cells = [row.get(column) for column in columns]
        print("\t".join([name, *("-" if cell is None else f"{cell:,.4g}" for cell in cells)]))
    filters = list(dict.fromkeys(name for row in matrix.values() for name in row))
    print(f"\nfalse texts of captioner (row) that filter (column) keeps beside {KEPT_TRUE:.0%} of its true ones (ROC AUC)")
    print("\t".join(["", *filters]))
    for name, row in matrix.items():
        print("\t".join([name, *(_cell(row.get(by)) for by in filters)]))


def _cell(found: dict[str, Any] | None) -> str:
    if found is None or found["missed"] is None or found["roc_auc"] is None:
        return "-"
    return f"{found['missed']:.2f} ({found['roc_auc']:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["world", "train", "measure"])
    parser.add_argument("families", nargs="*", help=", ".join(FAMILIES))
    parser.add_argument("--out", type=Path, default=Path("runs/families"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--pictures", type=int, default=3000)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--finetune-steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--lr", type=float, default=0.0014)
    parser.add_argument("--judged", type=int, default=600, help="pictures that are captioned and filtered")
    parser.add_argument("--heldout", type=int, default=200, help="held-out pictures; a SOHO ranks them by ITM of every pair")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.what == "world":
        pool(arguments.out, arguments.pictures, arguments.seed)
    elif arguments.what == "train":
        for name in arguments.families or FAMILIES:
            train(name, arguments, quickstart_world(arguments))
    else:
        measure(arguments)


if __name__ == "__main__":
    main()
