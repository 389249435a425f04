"""JPEG bytes to model input, the usual way and with `pixels: fast`, and what the difference does to ITM. For model_rates.py."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

PX = 224


def both_ways(
    pictures: Path | None, run: Path | None
) -> tuple[Callable[[], Any], Callable[[], Any], Callable[[], dict[str, Any]]]:
    """Bytes to normalised float32 pixels, picture by picture: the usual way, ours (`pixels: fast`), and what they differ by."""
    import numpy as np
    import torch
    from PIL import Image

    from capfilt.config.architectures import load_architecture
    from capfilt.config.find import find_yaml
    from capfilt.images import decode_rgb
    from capfilt.modeling.preprocess import normalise, to_uint8

    architecture = load_architecture(find_yaml("med_vit_b16", "models"))
    data = jpegs(pictures)
    mean, std = np.array(architecture.image_mean), np.array(architecture.image_std)

    def usual() -> list[Any]:
        made = []
        for encoded in data:
            image = Image.open(io.BytesIO(encoded)).convert("RGB").resize((PX, PX), Image.Resampling.BICUBIC)
            made.append(((np.asarray(image) / 255.0 - mean) / std).astype(np.float32).transpose(2, 0, 1))
        return made

    def fast() -> list[Any]:
        squares = (to_uint8([decode_rgb(encoded, covering=PX)], PX, how="fast") for encoded in data)
        return [normalise(square, architecture)[0] for square in squares]

    def effect() -> dict[str, Any]:
        before, after = torch.from_numpy(np.stack(usual())), torch.stack(fast())
        difference = ((after - before).abs().mean((0, 2, 3)) * torch.tensor(std) * 255).mean()
        told = {"pixel_difference_of_255": round(float(difference), 2)}
        return told | (effect_on_itm(run) if run is not None else {})

    return usual, fast, effect


def effect_on_itm(run: Path) -> dict[str, Any]:
    """What `pixels: fast` does to the scores of a finished run's own filter on its own pictures and texts.

    Random weights would show nothing: their ITM hardly looks at the picture.
    """
    import numpy as np
    import pyarrow.parquet as pq

    from capfilt.filters import filter_of
    from capfilt.images import decode_rgb
    from capfilt.modeling.inference import Inference

    pool = min((run / "pool").glob("chunk-*.parquet"))
    columns = pq.read_table(run / "round-1" / "candidates" / pool.name, columns=["row_id", "captions"]).to_pylist()
    texts = {row["row_id"]: [c["text"] for c in row["captions"] or [] if c["text"]] for row in columns}
    rows = pq.read_table(pool, columns=["row_id", "image"]).to_pylist()
    rows = [row for row in rows if row["image"] and texts.get(row["row_id"])][:96]
    itm = {}
    for how in ("exact", "fast"):
        scorer = filter_of(
            Inference.load(str(run / "round-1/models/filter"), batch_size=32, dtype="float32", device="cpu", pixels=how)
        )
        images = [decode_rgb(row["image"], covering=scorer.covering) for row in rows]
        found = scorer.score(images, [texts[row["row_id"]] for row in rows]).itm or []
        itm[how] = np.array([score for own in found for score in own])
    difference = np.abs(itm["fast"] - itm["exact"])
    return {
        "itm_pairs": len(difference),
        "itm_difference_median": round(float(np.median(difference)), 5),
        "itm_difference_mean": round(float(difference.mean()), 4),
        "itm_difference_max": round(float(difference.max()), 4),
        "itm_decisions_changed": int(((itm["fast"] >= 0.5) != (itm["exact"] >= 0.5)).sum()),
    }


def jpegs(folder: Path | None) -> list[bytes]:
    """Up to 32 pictures with a shorter side of 512 px, quality 90."""
    import numpy as np
    from PIL import Image, ImageFilter

    images: list[Any] = []
    if folder is not None:
        images = [Image.open(path).convert("RGB") for path in sorted(folder.glob("*.jpg"))[:32]]
    else:
        random = np.random.default_rng(0)
        for _ in range(16):
            noise = Image.fromarray(random.integers(0, 256, (512, 683, 3), dtype=np.uint8))
            images.append(noise.filter(ImageFilter.GaussianBlur(float(random.uniform(1, 6)))))
    made = []
    for image in images:
        scale = 512 / min(image.size)
        buffer = io.BytesIO()
        image.resize((round(image.width * scale), round(image.height * scale))).save(buffer, "JPEG", quality=90)
        made.append(buffer.getvalue())
    return made
