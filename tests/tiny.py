"""A network of a few thousand parameters of every family: architectures, and folders as a run saves them."""

from pathlib import Path
from typing import Any

import yaml

IMAGE = "size: 16, patch: 4, width: 16, layers: 1, heads: 2, stem: conv, positions: sincos2d"
WORDS = "vocabulary: trained, vocab_size: 80, width: 16, heads: 2"
TEXT = f"{WORDS}, layers: 2, intermediate: 32, max_positions: 24, cls_id: 2, sep_id: 3"
ARCHITECTURES = {
    "med": f"kind: med\nimage: {{{IMAGE}}}\ntext: {{{TEXT}}}\nembed_dim: 8\nqueue_size: 12\n",
    "coca": f"kind: coca\nimage: {{kind: vit, {IMAGE}}}\npooler: {{queries: 3, width: 16, heads: 2}}\ntext: {{{TEXT}}}\n"
    "multimodal: {layers: 1, heads: 2, intermediate: 32}\nembed_dim: 8\n",
    "blip2": f"kind: blip2\nimage: {{{IMAGE}}}\ntext: {{{TEXT}, queries: 3}}\nembed_dim: 8\n",
    "clipcap": f"kind: clipcap\nembed_dim: 8\nimage: {{kind: med, {IMAGE}}}\nprefix_length: 2\nmapper: {{kind: mlp}}\n"
    f"text: {{{WORDS}, layers: 1, max_positions: 30, dropout: 0.1, end_id: 3}}\n"
    "learns: mapper_and_text\n",
    "soho": "kind: soho\nimage: {size: 16, stem: small, block: basic, width: 8, blocks: [1, 1]}\ndictionary: {codes: 8}\n"
    f"text: {{{TEXT}, mask_id: 4}}\nfreeze_trunk_epochs: 1\n",
}
CAPTIONERS = ("med", "coca", "blip2", "clipcap")
SCORES = {"med": ("itm", "itc"), "coca": ("itc",), "blip2": ("itm", "itc"), "soho": ("itm",)}
"""Filters, and what each gives."""
TEXTS = [f"a {size} {colour} {shape}" for size in ("small", "large") for colour in ("red", "blue") for shape in ("disc", "star")]


def save_tiny(family: str, folder: Path, *, spread: float = 1.0) -> Path:
    """Weights drawn from one seed. `spread` times a normal deviate comes to each, so that pictures, texts and seeds matter."""
    import torch
    from pydantic import TypeAdapter

    from capfilt.config.architectures import Architecture
    from capfilt.modeling.build import build
    from capfilt.modeling.families import Loaded, save_network
    from capfilt.modeling.tokenizer import Tokenizer

    tokenizer = Tokenizer.train([*TEXTS, "a picture of "], 70)
    content: dict[str, Any] = yaml.safe_load(ARCHITECTURES[family])
    content["text"] |= {"vocab_size": len(tokenizer)}
    content |= {"max_text_length": 20}
    architecture: Architecture = TypeAdapter(Architecture).validate_python(content)
    model = build(architecture, seed=1)
    generator = torch.Generator().manual_seed(3)  # with which no family writes special tokens alone
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * spread)
    save_network(folder, Loaded(model.eval(), architecture, tokenizer))
    return folder
