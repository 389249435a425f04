"""The whole line on real pictures: a noisy pool of Flickr8k pictures with the truth aside, and four ways to use it.

    python benchmarks/real_pool.py DATA                                        as in benchmarks/results/real_pool.json
    python benchmarks/real_pool.py DATA --only arms --bytes --pipeline pipelines/real_pool_gpu.yaml --web 4000 --human 1500 \\
        --heldout 500 --data-seed 0 --seed 0 --out one_seed.json               a seed of benchmarks/results/real_pool_gpu.json
    python benchmarks/real_pool.py DATA --web 200 --human 40 --heldout 40 --set pretrain.steps=20 …    a quick look

DATA is a folder with flickr8k/ and web_text/ (see real_pool_data.py for the columns). pipelines/real_pool.yaml runs once on the
pool served over loopback and downloaded, and, up to `screen`, once on the same pictures as bytes in Parquet; the two pools are
compared. Its rounds are two of the four arms. In each a new model learns for as many steps, half of it human pairs, the rest

    raw              from the web texts as they are (round 0)
    both             from web and synthetic texts that pass the filter (round 1)
    filter_only      from web texts that pass the filter
    captioner_only   from web and synthetic texts, none filtered

as in BLIP's Table 1. Where hardly any web text reaches ITM's threshold of 0.5, the filter judges by ITC instead, at the web
texts' median (`threshold`). Every stage's figures are written at once; a run that was stopped goes on where it was.
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from loopback import Loopback
from real_pool_data import HOST, KINDS, make_pool
from real_pool_differences import measure

ROOT = Path(__file__).resolve().parents[1]
ARMS: dict[str, dict[str, Any]] = {
    "filter_only": {"policy": "web"},
    "captioner_only": {"policy": "both", "min_itm": 0.0, "min_itc": None},
}
LEAST = 0.1  # of the web texts
UNITS = (
    "round-0/pretrain",
    "round-0/finetune",
    "round-0/evaluate",
    "round-1/filter",
    "round-1/write",
    "round-1/evaluate",
    "report",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--pipeline", type=Path, default=ROOT / "pipelines" / "real_pool.yaml")
    parser.add_argument("--web", type=int, default=5000, help="rows of the pool")
    parser.add_argument("--human", type=int, default=1000, help="pictures with human texts")
    parser.add_argument("--heldout", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data-seed", type=int, help="of the pool, where another seed shall learn from the same one")
    parser.add_argument("--set", action="append", default=[], help="as for `capfilt run`")
    parser.add_argument("--only", choices=("pools", "arms"), help="compare the two pools, or train, and leave out the other")
    parser.add_argument("--arm", choices=tuple(ARMS), help="only this one, of a run whose pool is scored")
    parser.add_argument("--bytes", action="store_true", help="the arms take their pictures from Parquet: no server, no download")
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "real_pool")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "real_pool.json")
    args = parser.parse_args()
    notes = Notes(args.out, {name: getattr(args, name) for name in ("web", "human", "heldout", "seed", "set")})
    inputs, data_seed = args.folder / "inputs", args.seed if args.data_seed is None else args.data_seed
    if not (inputs / "heldout.parquet").exists():
        notes.add("data", make_pool(args.data, inputs, web=args.web, human=args.human, heldout=args.heldout, seed=data_seed))
    if args.arm is not None:
        pipeline = load(args, inputs, run_folder(args), *asked(notes))
        notes.timed(f"arm {args.arm}", partial(add_arm, notes, pipeline, run_folder(args), args.arm, ARMS[args.arm]))
        return
    if args.only != "arms":
        notes.add("pools", compare_pools(args, inputs))
    if args.only != "pools":
        train_arms(args, inputs, notes)


class Notes:
    """The results file: figures are added as they come, and kept as long as the settings are the same."""

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self._path = path
        self._settings = settings

    def read(self) -> dict[str, Any]:
        found = json.loads(self._path.read_text()) if self._path.exists() else {}
        if found.get("settings") == self._settings:
            return dict(found)
        what = "pipelines/real_pool.yaml on Flickr8k pictures with noisy texts; four arms, new models from random weights"
        return {"what": what, "settings": self._settings, "cpus": os.cpu_count()}

    def add(self, name: str, value: Any) -> None:
        found = {**self.read(), name: value}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(json.dumps(found, indent=1) + "\n")
        print(name, json.dumps(value)[:2000], flush=True)

    def add_arm(self, name: str, value: dict[str, Any]) -> None:
        self.add("arms", {**self.read().get("arms", {}), name: value})

    def timed(self, name: str, do: Callable[[], Any]) -> None:
        """Adds the seconds; where a unit was done before, or in part, what this process spent is added to what is there."""
        before = dict(self.read().get("seconds", {}))
        wall, cpu, load = time.monotonic(), time.process_time(), os.getloadavg()[0]
        do()
        spent = {"wall": time.monotonic() - wall, "cpu": time.process_time() - cpu}
        known = before.get(name, {})
        told = {key: round(known.get(key, 0) + value, 1) for key, value in spent.items()}
        self.add("seconds", before | {name: told | {"load_before": round(load, 1)}})


# ── bytes and addresses ─────────────────────────────────────────────────────────────────────────────────────


def load(args: argparse.Namespace, inputs: Path, output: Path, *more: str) -> Any:
    from capfilt.config.load import load_pipeline

    own = [
        f"output={output}",
        f"seed={args.seed}",
        f"read.paths=[{inputs / 'pool.parquet'}]",
        # Flickr8k's splits share no picture, and the embedding of so small a filter takes different pictures for copies
        "dedup=null",
        "select.min_itc=null",  # first by ITM; see `choose_threshold`
        f"pretrain.human={inputs / 'human.parquet'}",
        f"finetune.human={inputs / 'human.parquet'}",
        f"evaluate.heldout={inputs / 'heldout.parquet'}",
        f"evaluate.truth={inputs / 'truth.parquet'}",
        "evaluate.filter_quality={model: filter, by: noise_kind}",
    ]
    return load_pipeline(args.pipeline, [*own, *more, *args.set])


def pool_of(args: argparse.Namespace, inputs: Path, kind: str) -> Path:
    """The run folder with the pool of one kind."""
    from capfilt.rounds import run_pipeline

    output = args.folder / kind
    if kind == "bytes":
        run_pipeline(load(args, inputs, output, from_bytes(inputs)), until="screen")
        return output
    with Loopback(inputs / "served.parquet") as server:
        run_pipeline(load(args, inputs, output, connected(server)), until="screen")
    return output


def from_bytes(inputs: Path) -> str:
    columns = "{uid: uid, url: url, text: text, image: image}"
    return f"read={{kind: parquet_images, paths: [{inputs / 'pool.parquet'}], columns: {columns}, rows_per_chunk: 256}}"


def connected(server: Loopback) -> str:
    return f'download.connect_to={{"{HOST}": "{server.address}"}}'


def compare_pools(args: argparse.Namespace, inputs: Path) -> dict[str, Any]:
    """Rows of both pools by uid: everything but the row id, which belongs to the input file's chunks, has to be equal."""
    import pyarrow.parquet as pq

    seconds, rows = {}, {}
    for kind in ("urls", "bytes"):
        start = time.monotonic()
        folder = pool_of(args, inputs, kind)
        seconds[kind] = round(time.monotonic() - start, 1)
        found = (row for path in sorted((folder / "pool").glob("chunk-*.parquet")) for row in pq.read_table(path).to_pylist())
        rows[kind] = {row["uid"]: row for row in found}
    columns = [name for name in next(iter(rows["urls"].values())) if name not in ("row_id", "uid")]
    both = rows["urls"].keys() & rows["bytes"].keys()
    return {
        "rows": {kind: len(found) for kind, found in rows.items()},
        "in_both": len(both),
        "differ_in": {
            name: count for name in columns if (count := sum(rows["urls"][uid][name] != rows["bytes"][uid][name] for uid in both))
        },
        "seconds": seconds,
    }


# ── the arms ────────────────────────────────────────────────────────────────────────────────────────────────


def train_arms(args: argparse.Namespace, inputs: Path, notes: Notes) -> None:
    from capfilt.rounds import run_pipeline

    run = run_folder(args)
    notes.timed("pool", lambda: pool_of(args, inputs, run.name))
    with nullcontext() if args.bytes else Loopback(inputs / "served.parquet") as server:  # a pool that lacks a chunk asks again
        source = from_bytes(inputs) if server is None else connected(server)
        for unit in UNITS:
            pipeline = load(args, inputs, run, source, *asked(notes))
            start_from = "round-1/select" if unit == "round-1/write" and decided_at(run) != pipeline.select.min_itc else None
            notes.timed(unit, partial(run_pipeline, pipeline, until=unit, start_from=start_from))
            if unit == "round-1/filter" and "threshold" not in notes.read():
                notes.add("threshold", choose_threshold(run))
            if unit == "round-0/evaluate":
                notes.add_arm("raw", short(json.loads((run / "round-0" / "metrics.json").read_text())))
            if unit == "round-1/write":
                notes.add("selection", json.loads((run / "round-1" / "selection" / "summary.json").read_text()))
    metrics = json.loads((run / "round-1" / "metrics.json").read_text())
    notes.add_arm("both", short(metrics))
    notes.add("filter_quality", {**metrics["filter_quality"], "web_by_score": by_score(run, inputs / "truth.parquet")})
    for name, changes in ARMS.items():
        notes.timed(f"arm {name}", partial(add_arm, notes, pipeline, run, name, changes))
    notes.add("differences", measure(run, inputs / "heldout.parquet", seed=args.seed))


def run_folder(args: argparse.Namespace) -> Path:
    return args.folder / ("bytes" if args.bytes else "urls")


def asked(notes: Notes) -> list[str]:
    """How the filter judges, once that is known (`choose_threshold`)."""
    return list(notes.read().get("threshold", {}).get("set", []))


def decided_at(run: Path) -> float | None:
    """The cosine that the run's selection went by, None where there is no selection or it went by ITM."""
    path = run / "round-1" / "selection" / "summary.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    return float(found["threshold"]) if found.get("score") == "itc" else None


def choose_threshold(run: Path) -> dict[str, Any]:
    """ITM at BLIP's 0.5 where at least `LEAST` of the web texts reach it, else the cosine that half of them reach.

    No truth is asked. In ITM's training one pair in three matches, so a filter that has learnt little says a third of everything.
    """
    import numpy as np

    web = [text for text in scored_texts(run) if text["origin"] == "web"]
    itm, itc = (np.array([text[name] for text in web]) for name in ("itm", "itc"))
    share = float((itm >= 0.5).mean())
    wanted = [] if share >= LEAST else [f"select.min_itc={round(float(np.median(itc)), 4)}"]
    return {"set": wanted, "web_share_at_itm_0.5": round(share, 4), "web_itm": quantiles(itm), "web_itc": quantiles(itc)}


def quantiles(scores: Any) -> dict[str, float]:
    import numpy as np

    found = np.quantile(scores, [0, 0.1, 0.5, 0.9, 1]).tolist()
    return {name: round(value, 4) for name, value in zip(("min", "p10", "p50", "p90", "max"), found, strict=True)}


def by_score(run: Path, truth: Path) -> dict[str, Any]:
    """ITM and ITC on the web texts: ROC AUC of each false kind against the own; precision and recall of the upper half."""
    import numpy as np
    import pyarrow.parquet as pq

    from capfilt.evaluation.filter_quality import precision_recall, roc_auc

    kind_of = {row["uid"]: row["noise_kind"] for row in pq.read_table(truth, columns=["uid", "noise_kind"]).to_pylist()}
    web = [text for text in scored_texts(run) if text["origin"] == "web"]
    kinds = np.array([kind_of[text["uid"]] for text in web])
    is_own = kinds == "own"
    found: dict[str, Any] = {}
    for name in ("itm", "itc"):
        scores = np.array([text[name] for text in web])
        told: dict[str, float | None] = {"all": roc_auc(scores, is_own)}
        for kind in KINDS[1:]:
            compared = is_own | (kinds == kind)
            told[kind] = roc_auc(scores[compared], is_own[compared])
        precision, recall = precision_recall(scores >= np.median(scores), is_own)
        rounded = {kind: None if auc is None else round(auc, 4) for kind, auc in told.items()}
        found[name] = {
            "roc_auc": rounded,
            "upper_half": {"precision": precision, "recall": recall, "own_share": float(is_own.mean())},
        }
    return found


def scored_texts(run: Path) -> list[dict[str, Any]]:
    """uid, origin, itm and itc of every scored text of round 1."""
    import pyarrow.parquet as pq

    found = []
    for path in sorted((run / "round-1" / "candidates").glob("chunk-*.parquet")):
        for row in pq.read_table(path, columns=["uid", "captions"]).to_pylist():
            for text in row["captions"]:
                found += [{"uid": row["uid"], "origin": text["origin"], **score} for score in text["scores"]]
    return found


def add_arm(notes: Notes, pipeline: Any, run: Path, name: str, changes: dict[str, Any]) -> None:
    """One more arm from the run's scores: a view, its data set, a new model and captioner, measured as the rounds are."""
    from capfilt.config.round import WriteConfig
    from capfilt.evaluation import evaluate
    from capfilt.stages.select import select_view
    from capfilt.stages.write import write
    from capfilt.training import WebPairs, finetune_captioner, pretrain

    select = pipeline.select.model_copy(update=changes)
    view, folder = run / "round-1" / "views" / name, run / "arms" / name
    if not (view / "dataset" / "manifest.json").exists():
        select_view(run, name, select, pipeline.dedup, 1)
        candidates, pool = (sorted(map(str, (run / at).glob("chunk-*.parquet"))) for at in ("round-1/candidates", "pool"))
        write(
            WriteConfig(formats=["parquet"], rows_per_shard=1000),
            policy=select,
            selection=str(view / "selection.parquet"),
            candidates=candidates,
            pool=pool,
            out=str(view / "dataset"),
            card={"name": name},
        )
    shards = tuple(sorted(map(str, (view / "dataset" / "parquet").glob("*.parquet"))))
    models = {role: folder / "models" / role for role in ("pretrained", "captioner")}
    device = "cuda" if pipeline.resources.train.gpus else "cpu"
    common: dict[str, Any] = {"seed": pipeline.seed, "device": device, "prompt": pipeline.caption.prompt}
    work = folder / "training"
    web = WebPairs(files=shards, kind="dataset")
    pretrain(pipeline.pretrain, web=web, out=models["pretrained"], work=work / "pretrain", **common)
    finetune_captioner(
        pipeline.finetune.captioner,
        human=pipeline.finetune.human,
        start=models["pretrained"],
        out=models["captioner"],
        work=work / "captioner",
        **common,
    )
    measured = evaluate(
        pipeline.evaluate.model_copy(update={"filter_quality": None}),
        models=models,
        candidates=(),
        selection=None,
        round_number=1,
        policy=select,
        **common,
    )
    summary = json.loads((view / "summary.json").read_text())
    notes.add_arm(
        name,
        {
            **short(measured),
            "dataset": {name: summary[name] for name in ("policy", "score", "threshold", "kept_rows", "kept_texts")},
        },
    )


def short(metrics: dict[str, Any]) -> dict[str, Any]:
    """The figures, with a few captions to look at."""
    captioning = dict(metrics["captioning"])
    captioning["examples"] = [{k: one[k] for k in ("key", "caption", "references")} for one in captioning["examples"][:6]]
    return {"primary": metrics["primary"], "retrieval": metrics["retrieval"], "captioning": captioning}


if __name__ == "__main__":
    main()
