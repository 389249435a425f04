"""All families in one table on real pictures: Flickr8k with noisy texts whose truth is known (real_pool_data.py), on one GPU.

    python benchmarks/families_real.py DATA world               # the pool, screened; may be made on another machine
    python benchmarks/families_real.py DATA train med coca      # in order; several calls may run at once
    python benchmarks/families_real.py DATA train blip2 clipcap # they look with `med`'s eyes
    python benchmarks/families_real.py DATA train blip2_lm      # stage 2: `blip2`'s queries, `clipcap`'s GPT-2 frozen
    python benchmarks/families_real.py DATA measure             # prints the table, writes benchmarks/results/families_real.json
    python benchmarks/families_real.py DATA choose med --steps 1500   # one trial, on spare training pictures
    … --device cpu --steps 20 --finetune-steps 10 --batch 16 --web 300 --human 100 --heldout 50    # does it run at all?

As benchmarks/families.py does it in the quickstart's world, with networks of one size up (`architecture`). DATA is a folder with
flickr8k/ and web_text/. No one knows whether a synthetic text is true here. In its place stands a question with a known answer:
does filter B tell what captioner A wrote of this picture from what A wrote of another one?
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

from families import FAMILIES, KEPT_TRUE, PROMPT, World, _cost, _missed, _roles, _rounded, _scored, train
from real_pool_data import KINDS, make_pool

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "families_real.json"
BEAM: Any = {"kind": "beam", "beams": 3, "max_length": 24}
NUCLEUS: Any = {"kind": "nucleus", "top_p": 0.9, "temperature": 0.7, "min_length": 5, "max_length": 24}
VIT = {"size": 128, "patch": 16, "width": 256, "layers": 6, "heads": 8}
BERT = {"vocab_size": 3000, "width": 256, "layers": 4, "heads": 8, "intermediate": 1024, "max_positions": 48}
CHANGES: dict[str, dict[str, Any]] = {
    "coca": {
        "image": VIT,
        "pooler": {"queries": 32, "width": 256, "heads": 8},
        "text": BERT,
        "multimodal": {"layers": 4, "heads": 8, "intermediate": 1024},
        "embed_dim": 128,
    },
    "blip2": {"image": VIT, "text": BERT | {"layers": 6, "queries": 16}, "embed_dim": 128},
    "blip2_lm": {"image": VIT, "text": BERT | {"layers": 6, "queries": 16}},
    "clipcap": {
        "image": VIT,
        "embed_dim": 128,
        "prefix_length": 8,
        "text": {"vocab_size": 3000, "width": 256, "layers": 4, "heads": 8, "max_positions": 64, "init_std": 0.03},
    },
    "soho": {
        "image": {"size": 128, "width": 64, "blocks": [1, 1, 1]},
        "dictionary": {"codes": 512},
        "text": BERT | {"layers": 6},
    },
}
"""What is larger than in models/{family}_tiny.yaml. The MED is models/med_medium.yaml."""


def architecture(name: str, folder: Path) -> str:
    """A family's architecture: a name, or a file that is written into `folder`."""
    import yaml

    if name == "med":
        return "med_medium"

    tiny = ROOT / "models" / ("blip2_tiny_lm.yaml" if name == "blip2_lm" else f"{name}_tiny.yaml")
    told = yaml.safe_load(tiny.read_text())
    common = {"max_text_length": 24} | ({"init_std": 0.03} if "init_std" in told else {})
    for key, value in {**CHANGES[name], **common}.items():
        told[key] = {**told[key], **value} if isinstance(value, dict) else value
    path = folder / "architectures" / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(told, sort_keys=False))
    return str(path)


def make_world(arguments: argparse.Namespace) -> None:
    from capfilt.config.load import load_pipeline
    from capfilt.rounds import run_pipeline
    from capfilt.run.progress import SilentProgress

    inputs = arguments.out / "inputs"
    sizes = {"web": arguments.web, "human": arguments.human, "heldout": arguments.heldout}
    print(make_pool(arguments.data, inputs, **sizes, seed=arguments.seed))
    columns = "{uid: uid, url: url, text: text, image: image}"
    source = f"{{kind: parquet_images, paths: [{inputs / 'pool.parquet'}], columns: {columns}, rows_per_chunk: 256}}"
    settings = [f"output={arguments.out / 'world'}", f"seed={arguments.seed}", f"read={source}", "dedup=null"]
    settings += [f"{section}.human={inputs / 'human.parquet'}" for section in ("pretrain", "finetune")]
    settings += [f"evaluate.heldout={inputs / 'heldout.parquet'}", "download.image_px=128"]
    pipeline = load_pipeline(ROOT / "pipelines" / "real_pool.yaml", settings)
    run_pipeline(pipeline, progress=SilentProgress(), until="screen")


def real_world(arguments: argparse.Namespace) -> World:
    pool = arguments.out / "world" / "pool"
    return World(
        human=arguments.out / "inputs" / "human.parquet",
        web=tuple(map(str, sorted(pool.glob("chunk-*.parquet")))),
        architecture=lambda name: architecture(name, arguments.out),
        device=arguments.device,
        web_share=arguments.web_share,
        warmup_steps=100,
        finetune_lr=arguments.finetune_lr,
        both={
            "threads": arguments.threads,
            "augment": arguments.augment,
            "dtype": "float32" if arguments.device == "cpu" else "bfloat16",
            "checkpoint_every_steps": 10_000,
        },
    )


def measure(arguments: argparse.Namespace, names: list[str], pairs: Path) -> dict[str, Any]:
    """Figures of each family on `pairs`, then of its filter on the pool's first pictures and on all captioners' texts of them."""
    import numpy as np

    from capfilt.evaluation.filter_quality import roc_auc

    table: dict[str, Any] = {name: _held_out(name, arguments, pairs) for name in names}
    if arguments.what == "choose":
        return {"families": table}
    pictures, texts, kinds = _pool(arguments)
    is_own = np.array([kind == "own" for kind in kinds])
    written: dict[str, list[str]] = {}
    for name in names:
        if "captioner" in FAMILIES[name]:
            started = time.perf_counter()
            written[name] = _written(arguments, name, pictures)
            table[name]["captions_per_s"] = len(pictures) / (time.perf_counter() - started)
            table[name]["different_captions"] = len(set(written[name])) / len(pictures)
    matrix: dict[str, dict[str, Any]] = {name: {} for name in written}
    half = len(pictures) // 2
    for name in names:
        if "filter" not in FAMILIES[name]:
            continue
        asked = [
            [texts[i], *(text for own in written.values() for text in (own[i], own[(i + half) % len(own)]))]
            for i in range(len(pictures))
        ]
        scores_NT, _ = _scored(arguments.out / name / "filter", pictures, asked, arguments.device)
        web_N = scores_NT[:, 0].astype(np.float64)
        table[name]["roc_auc_web"] = roc_auc(web_N, is_own)
        for kind in KINDS[1:]:
            compared = is_own | np.array([one == kind for one in kinds])
            table[name][f"roc_auc_{kind}"] = roc_auc(web_N[compared], is_own[compared])
        for column, other in enumerate(written):
            pair = scores_NT[:, 1 + 2 * column : 3 + 2 * column]
            differ = np.array([own != written[other][(i + half) % len(pictures)] for i, own in enumerate(written[other])])
            told = [True] * int(differ.sum()) + [False] * int(differ.sum())
            auc, missed = _missed(np.concatenate([pair[differ, 0], pair[differ, 1]]), told)
            matrix[other][name] = {"roc_auc": auc, "missed": missed, "pictures": int(differ.sum())}
    return {"families": table, "missed_of_captioner_by_filter": matrix}


def _held_out(name: str, arguments: argparse.Namespace, pairs: Path) -> dict[str, Any]:
    from capfilt.config.evaluate import CaptioningConfig, EvaluateConfig, RetrievalConfig
    from capfilt.config.select import SelectConfig
    from capfilt.evaluation import evaluate

    own = FAMILIES[name]
    rerank = 16 if {"itc", "itm"} <= set(own.get("filter", ())) else 0
    asked = EvaluateConfig(
        heldout=str(pairs),
        retrieval=RetrievalConfig(model="filter", rerank_top_k=rerank) if "filter" in own else None,
        captioning=CaptioningConfig(measures=["cider_d"], decode=BEAM) if "captioner" in own else None,
    )
    found = evaluate(
        asked,
        models={role: arguments.out / name / role for role in ("captioner", "filter")},
        candidates=(),
        selection=None,
        round_number=0,
        seed=arguments.seed,
        device=arguments.device,
        prompt=PROMPT,
        policy=SelectConfig(),
    )
    captioning, retrieval = found["captioning"] or {}, found["retrieval"] or {}
    return {
        **_cost(name, arguments.out / name),
        "mean_recall_at_1": retrieval.get("mean_recall_at_1"),
        "mean_recall_at_1_interval": (retrieval.get("interval") or {}).get("mean_recall_at_1"),
        "mean_recall_at_10": retrieval.get("mean_recall_at_10"),
        "mean_recall_at_10_interval": (retrieval.get("interval") or {}).get("mean_recall_at_10"),
        "itc_only_recall_at_10": _mean_at_10(retrieval.get("itc_only")),
        "cider_d": captioning.get("cider_d"),
        "cider_d_interval": captioning.get("cider_d_interval"),
        "examples": [one["caption"] for one in captioning.get("examples", ())[:6]],
    }


def _mean_at_10(found: dict[str, Any] | None) -> float | None:
    return None if not found else (found["text_retrieval"]["r10"] + found["image_retrieval"]["r10"]) / 2


def _pool(arguments: argparse.Namespace) -> tuple[list[Any], list[str], list[str]]:
    """The first pictures of the pool whose web text no rule rejected: RGB, web texts, noise kinds."""
    import pyarrow.parquet as pq

    from capfilt.images import decode_rgb

    kind_of = {row["uid"]: row["noise_kind"] for row in pq.read_table(arguments.out / "inputs" / "truth.parquet").to_pylist()}
    found: list[tuple[Any, str, str]] = []
    for path in sorted((arguments.out / "world" / "pool").glob("chunk-*.parquet")):
        for row in pq.read_table(path, columns=["uid", "image", "captions"]).to_pylist():
            web = [text["text"] for text in row["captions"] or [] if text["rule"] is None and text["error"] is None]
            if web and len(found) < arguments.judged:
                found.append((decode_rgb(row["image"]), web[0], kind_of[row["uid"]]))
    return [one[0] for one in found], [one[1] for one in found], [one[2] for one in found]


def _written(arguments: argparse.Namespace, name: str, pictures: list[Any]) -> list[str]:
    from capfilt.captioners import build_captioner
    from capfilt.config.round import CaptionConfig
    from capfilt.identity import row_seed

    asked = CaptionConfig.model_validate({"captioner": {"kind": "trained"}, "prompt": PROMPT, "decode": NUCLEUS})
    captioner = build_captioner(asked, trained=str(arguments.out / name / "captioner"), device=arguments.device)
    seeds = [[row_seed(0, 0, "caption", name, str(i), 0)] for i in range(len(pictures))]
    return [texts[0].text for texts in captioner.caption(pictures, seeds=seeds)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("what", choices=["world", "train", "choose", "measure"])
    parser.add_argument("families", nargs="*", help=", ".join(FAMILIES))
    parser.add_argument("--out", type=Path, default=Path("runs/families_real"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--web", type=int, default=4000, help="rows of the pool")
    parser.add_argument("--human", type=int, default=1500, help="pictures with human texts")
    parser.add_argument("--heldout", type=int, default=500)
    parser.add_argument("--judged", type=int, default=1200, help="pictures of the pool that are captioned and filtered")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--finetune-steps", type=int, default=500)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=0.0007)
    parser.add_argument("--finetune-lr", type=float, default=0.0003)
    parser.add_argument("--web-share", type=float, default=0.5)
    parser.add_argument("--augment", choices=["none", "blip"], default="none")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    match arguments.what:
        case "world":
            make_world(arguments)
        case "train":
            for name in arguments.families or FAMILIES:
                train(name, arguments, real_world(arguments))
        case "choose":
            for name in arguments.families:
                train(name, arguments, real_world(arguments))
                print(json.dumps(_rounded(measure(arguments, [name], arguments.out / "inputs" / "spare.parquet"))))
        case _:
            names = [name for name in FAMILIES if all((arguments.out / name / role).exists() for role in _roles(name))]
            found = measure(arguments, names, arguments.out / "inputs" / "heldout.parquet")
            settings = {
                k: v
                for k, v in vars(arguments).items()
                if k not in ("data", "what", "families", "out", "results", "steps", "finetune_steps")
            }
            what = "families trained from scratch on Flickr8k pictures with noisy texts; one seed, one run each"
            arguments.results.write_text(
                json.dumps(_rounded({"what": what, "settings": settings | {"kept_true": KEPT_TRUE}, **found}), indent=1) + "\n"
            )
            print(json.dumps(_rounded(found)))


if __name__ == "__main__":
    main()
