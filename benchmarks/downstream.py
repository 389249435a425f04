"""Uses downstream of trained models, on data of the quickstart's world: what each family makes of each task it can do.

    python benchmarks/downstream.py runs/quickstart/round-0/models/filter runs/quickstart_coca/round-0/models/filter …

Tables, and benchmarks/results/downstream.json, written after each task. Tasks as in pipelines/tasks/quickstart.yaml, those that
train no network first; a MED's second ways beside its first. SOHO's retrieval, which matches every pair, is left out.

What is not learnt at those sizes may be at others, beside the rest under a name of its own:

    python benchmarks/downstream.py … --only entailment --label long --rows 16000 --steps 3000 --batch-size 64 --data FOLDER
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "downstream.json"
TASKS = Path(__file__).parent.parent / "pipelines" / "tasks" / "quickstart.yaml"
DATA = {
    "retrieval": "pairs",
    "captioning": "pairs",
    "zero_shot": "labelled",
    "frozen_classifier": "labelled",
    "vqa": "vqa",
    "entailment": "entailment",
    "two_images": "two_images",
    "video_retrieval": "clips",
    "video_classification": "clips",
}
"""Task -> what the small data are called that it is measured on."""


def settings(model: str, arguments: argparse.Namespace) -> list[Any]:
    """One evaluation per task that the model's family can do, with this run's steps and data."""
    from capfilt.config.downstream import Evaluation
    from capfilt.config.load import load_evaluation
    from capfilt.evaluation.tasks.able import ABLE
    from capfilt.modeling.families import load_network

    network = load_network(model).model
    family = type(network).__name__
    told = load_evaluation(TASKS).model_dump(mode="json")
    told["model"] = model
    kept = []
    for task in told["tasks"]:
        is_asked = not arguments.only or task["kind"] in arguments.only
        if not is_asked or not isinstance(network, ABLE[task["kind"]]) or (family, task["kind"]) == ("SOHO", "retrieval"):
            continue
        for key in ("data", "train"):
            if key in task:
                task[key] = str(arguments.data / Path(task[key]).name)
        if "fit" in task:
            is_frozen = task["kind"] in ("frozen_classifier", "video_classification")
            task["fit"] |= {"steps": arguments.head_steps if is_frozen else arguments.steps, "threads": 1}
            task["fit"] |= {key: value for key in ("batch_size", "lr") if (value := getattr(arguments, key)) is not None}
        if arguments.label:
            task["name"] = f"{task['kind']}_{arguments.label}"
        kept.append(task)
        if family == "MED" and task["kind"] == "vqa":
            kept.append({**task, "name": "vqa_generate", "by": "generate"})
        if family == "MED" and task["kind"] == "two_images":
            kept.append({**task, "name": "two_images_apart", "by": "apart"})
    kept.sort(key=lambda task: task["kind"] in ("vqa", "entailment", "two_images"))
    return [Evaluation.model_validate_json(json.dumps({**told, "tasks": [task]})) for task in kept]


def main() -> None:
    import torch

    from capfilt.evaluation.tasks import evaluate_tasks
    from capfilt.miniweb.tasks import build_tasks
    from capfilt.show import show_measured

    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="+")
    parser.add_argument("--data", type=Path, default=Path("runs/tasks"))
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=600, help="Where the network is fine-tuned.")
    parser.add_argument("--head-steps", type=int, default=300, help="On a frozen encoder.")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--lr", type=float)
    parser.add_argument("--label", help="Behind the tasks' names, whose settings then stand with them.")
    parser.add_argument("--only", nargs="*", metavar="KIND", help="Of the tasks these; others' figures stay in the file.")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    names = tuple(name for kind, name in DATA.items() if not arguments.only or kind in arguments.only)
    if missing := tuple(name for name in dict.fromkeys(names) if not (arguments.data / f"test-{name}.parquet").exists()):
        build_tasks(arguments.data, rows=arguments.rows, seed=0, names=missing)
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results["what"] = "uses downstream of models trained in the quickstart's world; one seed, one run each, one thread"
    if not arguments.label:
        results["settings"] = {"rows": arguments.rows, "steps": arguments.steps, "head_steps": arguments.head_steps, "seed": 0}
    for model in arguments.models:
        for asked in settings(model, arguments):
            started = time.process_time()
            found = evaluate_tasks(asked)
            show_measured(found)
            own = results.setdefault("models", {}).setdefault(found["family"], {})
            for name, task in found["tasks"].items():
                task.pop("examples", None)
                fits = [told.fit.model_dump(mode="json") for told in asked.tasks if arguments.label and hasattr(told, "fit")]
                learnt = {"model": "/".join(Path(model).parts[-4:]), "fit": fits[0]} if fits else {}
                own[name] = {**task, **learnt, "cpu_s": round(time.process_time() - started, 1)}
            RESULTS.parent.mkdir(exist_ok=True)
            RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
