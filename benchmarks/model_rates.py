"""How fast captioning, filtering and a training step are beside the same weights in transformers: ratios per core, on the CPU.

    python benchmarks/model_rates.py --minutes 11                 every case, and again as often as the time allows
    python benchmarks/model_rates.py --only caption_bfloat16      one case, 3 rounds; repeat --only for several
    python benchmarks/model_rates.py --only jpeg --pictures DIR   JPEG files of about 512 px or more; without them, drawn ones

Two random ViT-B/16 models of true size (224 px) are saved as transformers folders and loaded through capfilt's own loader.
Interleaved: transformers, capfilt, capfilt, transformers; the ratio is of their sums, and the median over rounds is reported.
Rounds go through all cases before any comes again, so that a busy minute touches one round of a few.
Clock: CPU seconds of this process with one thread, which other processes on the machine disturb less than a wall clock.

Random scores are nearly uniform over 30,524 tokens, unlike a captioner's: the norm before the vocabulary is scaled so that the
nucleus at top_p 0.9 holds tens of tokens, in both. No text may end before 20 tokens: both decode the same number of steps.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LENGTH = 20
PX = 224
SHARPNESS = 11.0
"""Of the norm before the vocabulary: scores' standard deviation is 0.55 times that."""

Work = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """Two ways to the same thing. `bar`: how many times faster ours must be; None where the figure is only recorded."""

    name: str
    bar: float | None
    theirs: Work
    ours: Work
    batch: int
    told: Callable[[], dict[str, Any]] = dict
    is_cold: bool = True
    """Whether its models are used for the first time, or something else wants a run that does not count."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=list(CASES), default=None)
    parser.add_argument("--batch", type=int, default=4, help="of cases that name none")
    parser.add_argument("--rounds", type=int, default=3, help="at most")
    parser.add_argument("--minutes", type=float, default=None, help="no round begins that would end later")
    parser.add_argument("--models", type=Path, default=None, help="keep the random models here and use them again")
    parser.add_argument("--pictures", type=Path, default=None, help="folder of JPEG files for the case jpeg")
    parser.add_argument(
        "--run", type=Path, default=None, help="a finished run's folder: the case jpeg tells what happens to its ITM"
    )
    args = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    end = time.monotonic() + args.minutes * 60 if args.minutes else float("inf")
    with tempfile.TemporaryDirectory() as scratch:
        if args.models:
            args.models.mkdir(parents=True, exist_ok=True)
        bench = Bench(args.models or Path(scratch), args.batch, args.pictures, args.run)
        rounds: dict[str, Rounds] = {}
        for number in range(args.rounds):
            for name in args.only or CASES:
                if number == 0:
                    rounds[name] = Rounds(CASES[name](bench))
                if time.monotonic() + rounds[name].takes_s < end:
                    rounds[name].once_more()
                    write(name, rounds[name].result())


def write(name: str, result: dict[str, Any]) -> None:
    """Into the file, beside the cases, and the effects on scores, that were measured another time."""
    import torch

    print(json.dumps({"name": name} | result), flush=True)
    out = ROOT / "benchmarks" / "results" / "model_rates.json"
    known = json.loads(out.read_text())["cases"] if out.exists() else {}
    told = {"what": __doc__.split("\n")[0], "torch": torch.__version__, "cases": known | {name: known.get(name, {}) | result}}
    out.write_text(json.dumps(told, indent=1, sort_keys=True) + "\n")


class Rounds:
    """What was measured of one case so far."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.ratios: list[float] = []
        self.takes_s = 0.0
        """Wall clock of the last round; 0 before there was one."""

    def once_more(self) -> None:
        if not self.ratios and self.case.is_cold:
            self.case.theirs(), self.case.ours()
        start = time.monotonic()
        theirs = seconds(self.case.theirs)
        ours = seconds(self.case.ours) + seconds(self.case.ours)
        theirs += seconds(self.case.theirs)
        self.ratios.append(round(theirs / ours, 3))
        self.takes_s = time.monotonic() - start

    def result(self) -> dict[str, Any]:
        case = self.case
        ratio = round(statistics.median(self.ratios), 3)
        found: dict[str, Any] = {"case": case.name, "ratio": ratio, "ratios": self.ratios, "bar": case.bar, "batch": case.batch}
        return found | case.told()


def seconds(work: Work) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


class Bench:
    """The models, loaded on demand, and what they are fed with."""

    def __init__(self, folder: Path, batch: int, pictures: Path | None, run: Path | None) -> None:
        import torch

        self.folder, self.batch, self.pictures, self.run = folder, batch, pictures, run
        generator = torch.Generator().manual_seed(0)
        self.pixels = torch.randn(batch, 3, PX, PX, generator=generator)
        # [CLS] 18 words [SEP]: three texts for each picture, picture by picture.
        self.ids = torch.randint(1000, 30_000, (batch, 3, LENGTH), generator=generator)
        self.ids[:, :, 0], self.ids[:, :, -1] = 101, 102
        self.prompt = torch.tensor([101, 1037, 3861, 1997])
        self._loaded: dict[str, Any] = {}

    def at(self, batch: int) -> "Bench":
        """The same models, another batch."""
        other = Bench(self.folder, batch, self.pictures, self.run)
        other._loaded = self._loaded
        return other

    def theirs(self, role: str, dtype: str) -> Any:
        import torch
        import transformers

        key = f"theirs/{role}/{dtype}"
        if key not in self._loaded:
            kind = getattr(transformers, CLASSES[role])
            self._loaded[key] = kind.from_pretrained(self._saved(role), dtype=getattr(torch, dtype)).eval()
        return self._loaded[key]

    def ours(self, role: str, dtype: str) -> Any:
        from capfilt.modeling.inference import Inference

        key = f"ours/{role}/{dtype}"
        if key not in self._loaded:
            folder = str(self._saved(role))
            self._loaded[key] = Inference.load(folder, batch_size=self.batch, dtype=dtype, device="cpu").model
        return self._loaded[key]

    def _saved(self, role: str) -> Path:
        """As transformers saves it; the vocabulary is only a place holder, no text is read."""
        import torch
        import transformers

        folder = self.folder / role
        if not (folder / "vocab.txt").is_file():
            text = {"vocab_size": 30_524, "num_attention_heads": 12, "encoder_hidden_size": 768, "bos_token_id": 30_522}
            config = transformers.BlipConfig(
                text_config=text | {"sep_token_id": 102, "eos_token_id": 102, "pad_token_id": 0},
                vision_config={"image_size": PX, "patch_size": 16, "layer_norm_eps": 1e-6},
            )
            torch.manual_seed(list(CLASSES).index(role))
            network = getattr(transformers, CLASSES[role])(config)
            if role == "captioner":
                network.text_decoder.cls.predictions.transform.LayerNorm.weight.data.fill_(SHARPNESS)
            network.save_pretrained(folder)
            specials = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]"}
            tokens = [specials.get(i, f"w{i}") for i in range(30_522)]
            (folder / "vocab.txt").write_text("\n".join(tokens))
        return folder


CLASSES = {"captioner": "BlipForConditionalGeneration", "filter": "BlipForImageTextRetrieval"}


def their_captions(bench: Bench, dtype: str) -> None:
    import torch

    model = bench.theirs("captioner", dtype)
    prompt = torch.cat([bench.prompt, torch.tensor([102])]).expand(bench.batch, -1)  # generate drops the closing token
    with torch.inference_mode():
        made = model.generate(
            bench.pixels.to(model.dtype),
            prompt.clone(),
            do_sample=True,
            top_p=0.9,
            top_k=0,
            max_length=LENGTH,
            min_length=LENGTH,
        )
    assert made.shape == (bench.batch, LENGTH), made.shape


def our_captions(bench: Bench, dtype: str, n: int = 1) -> None:
    import torch

    from capfilt.config.decoding import Nucleus

    model = bench.ours("captioner", dtype)
    seeds = [[k * n + i for i in range(n)] for k in range(bench.batch)]
    with torch.inference_mode():
        embeds = model.encode_image(bench.pixels.to(next(model.parameters()).dtype))
        made = model.generate(embeds, bench.prompt, Nucleus(top_p=0.9, min_length=LENGTH, max_length=LENGTH), seeds=seeds)
    assert made.ids_BnL.shape == (bench.batch, n, LENGTH)


def their_matching(bench: Bench, dtype: str, texts: int) -> None:
    """The usual script: picture and text go in together, text by text."""
    import torch

    model = bench.theirs("filter", dtype)
    with torch.inference_mode():
        for k in range(texts):
            ids = bench.ids[:, k]
            model(pixel_values=bench.pixels.to(model.dtype), input_ids=ids, attention_mask=torch.ones_like(ids))


def our_matching(bench: Bench, dtype: str, texts: int, *, itc: bool = False) -> None:
    import torch

    model = bench.ours("filter", dtype)
    with torch.inference_mode():
        match(bench, model, model.encode_image(bench.pixels.to(next(model.parameters()).dtype)), texts, itc=itc)


def match(bench: Bench, model: Any, embeds: Any, texts: int, *, itc: bool = False) -> None:
    import torch

    ids = bench.ids[:, :texts].flatten(0, 1)
    mask = torch.ones_like(ids)
    model.itm_logits(ids, mask, embeds)
    if itc:
        model.image_features(embeds), model.text_features(ids, mask)


def caption(bench: Bench, dtype: str) -> Case:
    return Case(f"caption_{dtype}", 1.15, lambda: their_captions(bench, dtype), lambda: our_captions(bench, dtype), bench.batch)


def caption_n5(bench: Bench, dtype: str) -> Case:
    def five_calls() -> None:
        for _ in range(5):
            their_captions(bench, dtype)

    return Case(f"caption_n5_{dtype}", 3.0, five_calls, lambda: our_captions(bench, dtype, 5), bench.batch, is_cold=False)


def matching(bench: Bench, dtype: str) -> Case:
    return Case(f"itm3_{dtype}", 2.0, lambda: their_matching(bench, dtype, 3), lambda: our_matching(bench, dtype, 3), bench.batch)


def both(bench: Bench, theirs: str, dtype: str, bar: float | None, *, itc: bool = False) -> Case:
    """A web and a synthetic text: caption, then match two texts; an encoder for each model."""

    def naive() -> None:
        their_captions(bench, theirs)
        their_matching(bench, theirs, 2)

    def ours() -> None:
        our_captions(bench, dtype)
        our_matching(bench, dtype, 2, itc=itc)

    return Case(f"both_{dtype}_over_{theirs}{'_with_itc' if itc else ''}", bar, naive, ours, bench.batch, is_cold=False)


def shared(bench: Bench, dtype: str) -> Case:
    """One encoding for both models (`trunk: shared`); the random models' encoders differ, which changes no time."""
    import torch

    from capfilt.config.decoding import Nucleus

    def naive() -> None:
        their_captions(bench, dtype)
        their_matching(bench, dtype, 2)

    def ours() -> None:
        captioner, scorer = bench.ours("captioner", dtype), bench.ours("filter", dtype)
        with torch.inference_mode():
            embeds = captioner.encode_image(bench.pixels.to(next(captioner.parameters()).dtype))
            seeds = [[k] for k in range(bench.batch)]
            captioner.generate(embeds, bench.prompt, Nucleus(top_p=0.9, min_length=LENGTH, max_length=LENGTH), seeds=seeds)
            match(bench, scorer, embeds, 2)

    return Case(f"shared_{dtype}", 1.9, naive, ours, bench.batch, is_cold=False)


def jpeg(bench: Bench) -> Case:
    from model_rates_jpeg import both_ways

    usual, fast, effect = both_ways(bench.pictures, bench.run)
    return Case("jpeg", 2.5, usual, fast, 1, effect)


def training_step(bench: Bench) -> Case:
    """Pre-training: all three losses and their gradients, bfloat16 autocast against float32, both ours."""
    import torch

    from capfilt.config.architectures import load_architecture
    from capfilt.config.find import find_yaml
    from capfilt.modeling.batch import Batch
    from capfilt.modeling.build import build
    from capfilt.modeling.med.training import MedPretraining

    architecture = load_architecture(find_yaml("med_vit_b16", "models")).model_copy(update={"queue_size": 8 * bench.batch})
    module = MedPretraining(build(architecture, seed=0)).train()
    ids = bench.ids[:, 0]
    batch = Batch(bench.pixels, ids, torch.ones_like(ids), torch.arange(bench.batch))

    def step(dtype: Any) -> None:
        module.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
            loss = sum(module.losses(batch).values())
        loss.backward()

    return Case(
        "training_step_bfloat16_over_float32", 1.4, lambda: step(torch.float32), lambda: step(torch.bfloat16), bench.batch
    )


CASES: dict[str, Callable[[Bench], Case]] = {
    "caption_float32": lambda bench: caption(bench, "float32"),
    "caption_bfloat16": lambda bench: caption(bench, "bfloat16"),
    "caption_float32_batch_8": lambda bench: caption(bench.at(8), "float32"),
    "caption_bfloat16_batch_8": lambda bench: caption(bench.at(8), "bfloat16"),
    "caption_bfloat16_batch_32": lambda bench: caption(bench.at(32), "bfloat16"),
    "caption_n5_float32": lambda bench: caption_n5(bench, "float32"),
    "caption_n5_bfloat16": lambda bench: caption_n5(bench, "bfloat16"),
    "itm3_float32": lambda bench: matching(bench, "float32"),
    "itm3_bfloat16": lambda bench: matching(bench, "bfloat16"),
    "both_float32": lambda bench: both(bench, "float32", "float32", 1.4),
    "both_bfloat16": lambda bench: both(bench, "bfloat16", "bfloat16", 1.4),
    "both_bfloat16_over_float32": lambda bench: both(bench, "float32", "bfloat16", 2.5),
    "both_with_itc_bfloat16": lambda bench: both(bench, "bfloat16", "bfloat16", None, itc=True),
    "shared_float32": lambda bench: shared(bench, "float32"),
    "shared_bfloat16": lambda bench: shared(bench, "bfloat16"),
    "jpeg": jpeg,
    "training_step": lambda bench: training_step(bench.at(8)),
}


if __name__ == "__main__":
    main()
