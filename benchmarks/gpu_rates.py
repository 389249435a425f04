"""Images per second on one GPU: captioning, filtering, both, a training step, beside transformers and beside the device's limit.

    python benchmarks/gpu_rates.py                              ViT-B/16 at 384 px, nucleus, 20 tokens, bfloat16; about 3 minutes
    python benchmarks/gpu_rates.py --px 224 --batches 64 256    another size
    python benchmarks/gpu_rates.py --device cpu --tiny          does it run at all? seconds, and figures that mean nothing

Needs torch, transformers, pydantic, pyyaml, safetensors, tokenizers, numpy and pillow; no ray, faiss or pyarrow.

Random weights of true size, the same in both, made as in model_rates.py. Each side is timed at every batch size and its best one
counts. The limit is the time that a perfect implementation would take: floating-point operations at the rate of a large bfloat16
product measured in the same run, plus the bytes that decoding has to read (cross-attention keys and values, and weights, at each
step) at the measured rate of a copy. `of_limit` is our rate divided by it. Utilisation is nvidia-smi's, sampled while ours runs.
"""

import argparse
import contextlib
import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from capfilt.config.architectures import load_architecture
from capfilt.config.decoding import Decoding, Greedy, Nucleus
from capfilt.config.find import find_yaml
from capfilt.modeling.batch import Batch
from capfilt.modeling.build import build
from capfilt.modeling.inference import Inference
from capfilt.modeling.med.training import MedCaptionerFinetuning, MedPretraining
from capfilt.modeling.preprocess import normalise

ROOT = Path(__file__).resolve().parents[1]
LENGTH, PROMPT, TEXTS = 20, 4, 2
SHARPNESS = 11.0
"""Of the norm before the vocabulary: makes the nucleus at 0.9 hold tens of tokens, as a trained captioner's does."""
CLASSES = {"captioner": "BlipForConditionalGeneration", "filter": "BlipForImageTextRetrieval"}


@dataclass(frozen=True)
class Size:
    """Of image encoder and text network, as BLIP's ViT-B/16 has them."""

    px: int
    width: int = 768
    layers: int = 12
    hidden: int = 3072
    vocabulary: int = 30_524

    @property
    def tokens(self) -> int:
        return (self.px // 16) ** 2 + 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--px", type=int, default=384)
    parser.add_argument("--batches", type=int, nargs="+", default=[64, 128, 256, 512])
    parser.add_argument("--training-batch", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="64 wide, 2 layers, 32 px, batch 4")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "gpu_rates.json")
    args = parser.parse_args()
    size = Size(args.px)
    if args.tiny:
        size = Size(32, width=128, layers=2, hidden=256, vocabulary=1000)
        args.batches, args.training_batch, args.seconds = [4, 8], 4, 0.2
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(Path(scratch), size, torch.device(args.device), args.seconds)
        found: dict[str, Any] = {
            "what": __doc__.split("\n")[0],
            "torch": torch.__version__,
            "device": bench.device_name,
            "px": size.px,
        }
        for name, part in (
            ("device_limits", lambda: bench.device_limits()),
            ("caption", lambda: bench.beside("caption", bench.their_captions, bench.our_captions, args.batches)),
            ("caption_n5", lambda: bench.ours_alone("caption_n5", lambda b: bench.our_captions(b, n=5), args.batches)),
            ("filter", lambda: bench.beside("filter", bench.their_matching, bench.our_matching, args.batches)),
            ("both", lambda: bench.beside("both", bench.their_both, bench.our_both, args.batches)),
            ("both_shared", lambda: bench.beside("both_shared", bench.their_both, bench.our_shared, args.batches)),
            ("training", lambda: bench.training(args.training_batch)),
            ("bfloat16_against_float32", lambda: bench.precision(args.batches[0])),
            ("row_invariance", lambda: {batch: bench.row_invariance(batch) for batch in args.batches}),
        ):
            found[name] = part()
            print(json.dumps({name: found[name]}), flush=True)
            args.out.write_text(json.dumps(found, indent=1) + "\n")


class Bench:
    """Both sides' models, loaded on demand, and what they are fed with."""

    def __init__(self, folder: Path, size: Size, device: torch.device, seconds: float) -> None:
        self.folder, self.size, self.device, self.seconds = folder, size, device, seconds
        self.device_name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
        self._loaded: dict[str, Any] = {}
        self._flops_per_s = self._bytes_per_s = 0.0

    # ── models and inputs ───────────────────────────────────────────────────────────────────────────────────

    def theirs(self, role: str, dtype: str = "bfloat16") -> Any:
        return self._once(
            f"theirs/{role}/{dtype}",
            lambda: (
                getattr(transformers, CLASSES[role])
                .from_pretrained(self._saved(role), dtype=getattr(torch, dtype))
                .eval()
                .to(self.device)
            ),
        )

    def ours(self, role: str, dtype: Any = "bfloat16") -> Inference:
        return self._once(
            f"ours/{role}/{dtype}",
            lambda: Inference.load(str(self._saved(role)), batch_size=1, dtype=dtype, device=str(self.device)),
        )

    def _once(self, key: str, make: Callable[[], Any]) -> Any:
        if key not in self._loaded:
            self._loaded[key] = make()
        return self._loaded[key]

    def _saved(self, role: str) -> Path:
        folder, size = self.folder / role, self.size
        if not folder.exists():
            common = {"hidden_size": size.width, "num_hidden_layers": size.layers, "intermediate_size": size.hidden}
            common |= {"num_attention_heads": size.width // 64}
            text = {"vocab_size": size.vocabulary, "encoder_hidden_size": size.width, "bos_token_id": size.vocabulary - 2}
            config = transformers.BlipConfig(
                text_config=common | text | {"sep_token_id": 102, "eos_token_id": 102, "pad_token_id": 0},
                vision_config=common | {"image_size": size.px, "patch_size": 16, "layer_norm_eps": 1e-6},
            )
            torch.manual_seed(list(CLASSES).index(role))
            network = getattr(transformers, CLASSES[role])(config)
            if role == "captioner":
                network.text_decoder.cls.predictions.transform.LayerNorm.weight.data.fill_(SHARPNESS)
            network.save_pretrained(folder)
            specials = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]"}
            tokens = [specials.get(i, f"w{i}") for i in range(size.vocabulary - 2)]
            (folder / "vocab.txt").write_text("\n".join(tokens))
        return folder

    def uint8(self, batch: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        pixels = torch.randint(0, 256, (batch, 3, self.size.px, self.size.px), dtype=torch.uint8, generator=generator)
        return pixels.pin_memory() if self.device.type == "cuda" else pixels

    def pixels(self, batch: int, dtype: torch.dtype) -> torch.Tensor:
        """uint8 over the bus, normalised on the device, in both."""
        architecture = self.ours("filter").architecture
        source = self._once(f"uint8/{batch}", lambda: self.uint8(batch))
        return normalise(source.to(self.device, non_blocking=True), architecture).to(dtype)

    def ids(self, batch: int, texts: int = TEXTS) -> torch.Tensor:
        generator = torch.Generator().manual_seed(1)
        ids = torch.randint(110, self.size.vocabulary - 2, (batch, texts, LENGTH), generator=generator)
        ids[:, :, 0], ids[:, :, -1] = 101, 102
        return ids.to(self.device)

    def prompt(self) -> torch.Tensor:
        return torch.tensor([101, 137, 361, 997], device=self.device)[:PROMPT]

    # ── the two sides ───────────────────────────────────────────────────────────────────────────────────────

    def their_captions(self, batch: int) -> None:
        model = self.theirs("captioner")
        prompt = torch.cat([self.prompt(), torch.tensor([102], device=self.device)]).expand(batch, -1).clone()
        lengths = {"max_length": LENGTH, "min_length": LENGTH}
        made = model.generate(self.pixels(batch, model.dtype), prompt, do_sample=True, top_p=0.9, top_k=0, **lengths)
        assert made.shape == (batch, LENGTH), made.shape

    def our_captions(self, batch: int, n: int = 1) -> None:
        self.write(self.encode("captioner", batch), n)

    def encode(self, role: str, batch: int, dtype: str = "bfloat16") -> torch.Tensor:
        return self.ours(role, dtype).model.encode_image(self.pixels(batch, getattr(torch, dtype)))

    def write(self, embeds: torch.Tensor, n: int = 1, decoding: Decoding | None = None, dtype: str = "bfloat16") -> Any:
        decoding = decoding or Nucleus(top_p=0.9, min_length=LENGTH, max_length=LENGTH)
        seeds = [[i * n + k for k in range(n)] for i in range(len(embeds))]
        return self.ours("captioner", dtype).model.generate(embeds, self.prompt(), decoding, seeds=seeds)

    def their_matching(self, batch: int) -> None:
        """The usual script: picture and text go in together, text by text."""
        model, ids = self.theirs("filter"), self.ids(batch)
        for k in range(TEXTS):
            mask = torch.ones_like(ids[:, k])
            model(pixel_values=self.pixels(batch, model.dtype), input_ids=ids[:, k], attention_mask=mask)

    def our_matching(self, batch: int) -> None:
        self.match(self.encode("filter", batch))

    def match(self, embeds: torch.Tensor, dtype: str = "bfloat16") -> torch.Tensor:
        ids = self.ids(len(embeds)).flatten(0, 1)
        return self.ours("filter", dtype).model.itm_logits(ids, torch.ones_like(ids), embeds)

    def their_both(self, batch: int) -> None:
        self.their_captions(batch)
        self.their_matching(batch)

    def our_both(self, batch: int) -> None:
        self.our_captions(batch)
        self.our_matching(batch)

    def our_shared(self, batch: int) -> None:
        embeds = self.encode("captioner", batch)
        self.write(embeds)
        self.match(embeds)

    # ── measuring ───────────────────────────────────────────────────────────────────────────────────────────

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def rate(self, work: Callable[[], object], items: int) -> float:
        """Items per second of wall clock, after two runs to warm up."""
        with torch.inference_mode():
            work(), work()
            self.wait()
            start, runs = time.perf_counter(), 0
            while time.perf_counter() - start < self.seconds:
                work()
                self.wait()
                runs += 1
            return runs * items / (time.perf_counter() - start)

    def best(self, work: Callable[[int], object], batches: list[int]) -> dict[str, Any]:
        rates: dict[int, float] = {}
        for batch in batches:
            try:
                rates[batch] = round(self.rate(lambda batch=batch: work(batch), batch), 1)
            except torch.OutOfMemoryError:
                torch.cuda.empty_cache()
                break
        batch = max(rates, key=lambda size: rates[size])
        return {"images_per_s": rates[batch], "batch": batch, "all": rates}

    def ours_alone(self, case: str, work: Callable[[int], object], batches: list[int]) -> dict[str, Any]:
        with utilisation(self.device) as seen:
            ours = self.best(work, batches)
        limit = 1 / self.limit_s(case, ours["batch"])
        ours["utilisation"] = seen()
        return {"ours": ours, "limit_images_per_s": round(limit, 1), "of_limit": round(ours["images_per_s"] / limit, 3)}

    def beside(
        self, case: str, theirs: Callable[[int], object], ours: Callable[[int], object], batches: list[int]
    ) -> dict[str, Any]:
        found = self.ours_alone(case, ours, batches) | {"theirs": self.best(theirs, batches)}
        return found | {"ratio": round(found["ours"]["images_per_s"] / found["theirs"]["images_per_s"], 3)}

    def device_limits(self) -> dict[str, float]:
        """What the limit is made of: a large product's operations and a large copy's bytes (read and written) per second."""
        side = 8192 if self.device.type == "cuda" else 256
        a, b = (torch.randn(side, side, device=self.device, dtype=torch.bfloat16) for _ in range(2))
        self._flops_per_s = self.rate(lambda: a @ b, 1) * 2 * side**3
        source = torch.empty(1 << (31 if self.device.type == "cuda" else 22), dtype=torch.uint8, device=self.device)
        target = torch.empty_like(source)
        self._bytes_per_s = self.rate(lambda: target.copy_(source), 1) * 2 * source.numel()
        return {"tflop_per_s": round(self._flops_per_s / 1e12, 1), "tb_per_s": round(self._bytes_per_s / 1e12, 3)}

    def limit_s(self, case: str, batch: int) -> float:
        """Seconds per image that operations and decoding's reads take at the measured rates."""
        size = self.size
        w, tokens = size.width, size.tokens
        layer = 2 * (4 * w * w + 2 * w * size.hidden)  # per token: attention's four maps and the feed-forward
        vision = size.layers * tokens * (layer + 4 * tokens * w) + 2 * 3 * 256 * w * tokens
        cross_kv = size.layers * tokens * 4 * w * w
        text_token = size.layers * (layer + 4 * w * w + 4 * tokens * w)  # and cross-attention: two maps, scores, mixing
        weights = size.layers * (6 * w * w + 2 * w * size.hidden) + w * size.vocabulary

        def writing(n: int) -> float:
            steps = LENGTH - PROMPT
            flops = cross_kv + (PROMPT + n * steps) * text_token + n * steps * 2 * w * size.vocabulary
            read = 2 * steps * (2 * size.layers * tokens * w + weights / batch)
            return flops / self._flops_per_s + read / self._bytes_per_s

        encoding = vision / self._flops_per_s
        matching = (cross_kv + TEXTS * LENGTH * text_token) / self._flops_per_s
        return {
            "caption": encoding + writing(1),
            "caption_n5": encoding + writing(5),
            "filter": encoding + matching,
            "both": 2 * encoding + writing(1) + matching,
            "both_shared": encoding + writing(1) + matching,
        }[case]

    # ── a training step ─────────────────────────────────────────────────────────────────────────────────────

    def training(self, batch: int) -> dict[str, Any]:
        """Pairs per second, forward and backward, bfloat16 autocast: LM beside transformers' LM, and BLIP's three losses."""
        size = self.size
        told = load_architecture(find_yaml("med_vit_b16", "models")).model_dump()
        told["image"] |= {"size": size.px, "width": size.width, "layers": size.layers, "heads": size.width // 64}
        told["text"] |= {"width": size.width, "layers": size.layers, "heads": size.width // 64, "intermediate": size.hidden}
        told["text"] |= {"vocab_size": size.vocabulary}
        architecture = type(load_architecture(find_yaml("med_vit_b16", "models"))).model_validate(
            told | {"queue_size": 8 * batch}
        )
        pixels, ids = self.pixels(batch, torch.float32).clone(), self.ids(batch)[:, 0].clone()
        pairs = Batch(pixels, ids, torch.ones_like(ids), torch.arange(batch, device=self.device))
        network = build(architecture, seed=0).to(self.device)
        theirs = self.theirs("captioner", "float32").train()

        def step(module: torch.nn.Module, losses: Callable[[], Any]) -> float:
            def once() -> None:
                with torch.inference_mode(False), torch.enable_grad():
                    module.zero_grad(set_to_none=True)
                    with torch.autocast(self.device.type, torch.bfloat16):
                        loss = losses()
                    loss.backward()

            return round(self.rate(once, batch), 1)

        lm, all_three = MedCaptionerFinetuning(network).train(), MedPretraining(network).to(self.device).train()
        found = {
            "batch": batch,
            "lm_pairs_per_s": step(lm, lambda: lm.losses(pairs)["lm"]),
            "theirs_lm_pairs_per_s": step(
                theirs,
                lambda: theirs(pixel_values=pixels, input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids).loss,
            ),
        }
        with utilisation(self.device) as seen:
            found["itc_itm_lm_pairs_per_s"] = step(all_three, lambda: sum(all_three.losses(pairs).values()))
        found["utilisation"] = seen()
        del self._loaded["theirs/captioner/float32"]
        return found

    # ── agreement ───────────────────────────────────────────────────────────────────────────────────────────

    @torch.inference_mode()
    def precision(self, batch: int) -> dict[str, Any]:
        """Of random weights: no pair is clear to them, so published ones agree more."""
        greedy = Greedy(max_length=LENGTH, min_length=0)
        texts, match = [], []
        for dtype in ("float32", "bfloat16"):
            texts.append(self.write(self.encode("captioner", batch, dtype), 1, greedy, dtype).ids_BnL[:, 0])
            logits = self.match(self.encode("filter", batch, dtype), dtype).float()
            match.append((logits - logits.mean(0)).softmax(-1)[:, 1])  # random heads call all pairs one thing
        return {
            "captions_equal": round(float((texts[0] == texts[1]).all(1).float().mean()), 4),
            "tokens_equal": round(float((texts[0] == texts[1]).float().mean()), 4),
            "itm_decisions_equal": round(float(((match[0] >= 0.5) == (match[1] >= 0.5)).float().mean()), 4),
            "itm_difference_max": round(float((match[0] - match[1]).abs().max()), 5),
        }

    @torch.inference_mode()
    def row_invariance(self, batch: int) -> dict[str, Any]:
        """The same pictures and seeds at other places of a batch of the same size, and in a batch of half the size."""
        model = self.ours("captioner").model
        decoding = Nucleus(top_p=0.9, min_length=5, max_length=LENGTH)
        pixels, seeds = self.pixels(batch, torch.bfloat16), [[i] for i in range(batch)]
        order = torch.randperm(batch, generator=torch.Generator().manual_seed(2)).to(self.device)
        moved_seeds = [seeds[i] for i in order.tolist()]
        first = model.generate(model.encode_image(pixels), self.prompt(), decoding, seeds=seeds)
        moved = model.generate(model.encode_image(pixels[order]), self.prompt(), decoding, seeds=moved_seeds)
        half = model.generate(model.encode_image(pixels[: batch // 2]), self.prompt(), decoding, seeds=seeds[: batch // 2])
        again = model.generate(model.encode_image(pixels), self.prompt(), decoding, seeds=seeds)

        def equal(a: Any, b: Any) -> dict[str, float]:
            texts = (a.ids_BnL == b.ids_BnL).flatten(1).all(1).float().mean()
            bits = (a.log_prob_Bn == b.log_prob_Bn).float().mean()
            return {"texts_equal": round(float(texts), 4), "log_prob_bits_equal": round(float(bits), 4)}

        back = type(moved)(moved.ids_BnL[order.argsort()], moved.log_prob_Bn[order.argsort()])
        cut = type(first)(first.ids_BnL[: batch // 2], first.log_prob_Bn[: batch // 2])
        return {"again": equal(first, again), "other_places": equal(first, back), "half_the_batch": equal(cut, half)}


@contextlib.contextmanager
def utilisation(device: torch.device) -> Iterator[Callable[[], float | None]]:
    """Mean per cent of time with a kernel running, as nvidia-smi samples it; None where there is no nvidia-smi."""
    found: list[float] = []
    if device.type != "cuda":
        yield lambda: None
        return
    command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "200"]
    try:
        watcher = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    except FileNotFoundError:
        yield lambda: None
        return
    try:
        yield lambda: round(sum(found) / len(found), 1) if found else None
    finally:
        watcher.terminate()
        found += [float(line) for line in watcher.communicate()[0].split() if line.replace(".", "").isdigit()]


if __name__ == "__main__":
    main()
