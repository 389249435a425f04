"""open_clip's CoCa once more, in float64 and without any of our code: plain formulas on a state dict under its names."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

PAD, START, END, VOCABULARY, CONTEXT = 0, 48, 49, 50, 14


@dataclass(frozen=True)
class Shape:
    """Sizes of a tiny CoCa."""

    width: int = 32
    image_width: int = 48
    image_layers: int = 2
    text_layers: int = 2
    decoder_layers: int = 3
    size: int = 32
    queries: int = 6
    layout: str = "joint"

    def settings(self, *, corrected: bool = False) -> dict[str, Any]:
        """What shapes do not say, in open_clip's words; the ids of start and end in ours."""
        return {
            "vision_cfg": {"width": self.image_width, "head_width": 16, "attn_pooler_heads": 4}
            | ({} if self.layout == "joint" else {"attentional_pool": self.layout}),
            "text_cfg": {"heads": 4, "correct_cls_mask": corrected},
            "multimodal_cfg": {"heads": 2},
            "text": {"cls_id": START, "sep_id": END},
        }


def random_state(shape: Shape, seed: int = 0, std: float = 0.2) -> dict[str, Tensor]:
    """Norm weights near one, all else normal: what comes out then depends on what goes in."""
    w, iw, e = shape.width, shape.image_width, shape.width
    tokens = (shape.size // 8) ** 2 + 1
    sizes: dict[str, tuple[int, ...]] = {
        "visual.class_embedding": (iw,), "visual.positional_embedding": (tokens, iw), "visual.conv1.weight": (iw, 3, 8, 8),
        "visual.proj": (w, e), "text.token_embedding.weight": (VOCABULARY, w), "text.positional_embedding": (CONTEXT + 1, w),
        "text.cls_emb": (w,), "text.text_projection": (w, e), "text_decoder.text_projection": (w, VOCABULARY),
        "visual.attn_pool.query": (shape.queries, w),
    }  # fmt: skip

    def linear(name: str, rows: int, columns: int) -> None:
        sizes.update({f"{name}weight": (rows, columns), f"{name}bias": (rows,)})

    def norm(name: str, width: int) -> None:
        sizes.update({f"{name}.weight": (width,), f"{name}.bias": (width,)})

    def block(name: str, width: int, ratio: int) -> None:
        norm(f"{name}.ln_1", width)
        norm(f"{name}.ln_2", width)
        linear(f"{name}.attn.in_proj_", 3 * width, width)
        linear(f"{name}.attn.out_proj.", width, width)
        linear(f"{name}.mlp.c_fc.", ratio * width, width)
        linear(f"{name}.mlp.c_proj.", width, ratio * width)

    def pooler(name: str, seen: int) -> None:
        norm(f"{name}.ln_q", w)
        norm(f"{name}.ln_k", seen)
        linear(f"{name}.attn.out_proj.", w, w)
        sizes[f"{name}.attn.in_proj_bias"] = (3 * w,)
        if seen == w:
            sizes[f"{name}.attn.in_proj_weight"] = (3 * w, w)
        else:
            sizes.update({f"{name}.attn.{part}_proj_weight": (w, w if part == "q" else seen) for part in "qkv"})

    pooler("visual.attn_pool", iw)
    if shape.layout != "joint":
        sizes["visual.attn_pool_contrastive.query"] = (1, w)
        pooler("visual.attn_pool_contrastive", iw if shape.layout == "parallel" else w)
    norm("visual.ln_pre", iw)
    norm("visual.ln_post", w)
    norm("text.ln_final", w)
    norm("text_decoder.ln_final", w)
    for i in range(shape.image_layers):
        block(f"visual.transformer.resblocks.{i}", iw, 4)
    for i in range(shape.text_layers):
        block(f"text.transformer.resblocks.{i}", w, 2)
    for i in range(shape.decoder_layers):
        block(f"text_decoder.resblocks.{i}", w, 4)
        block(f"text_decoder.cross_attn.{i}", w, 4)
        norm(f"text_decoder.cross_attn.{i}.ln_1_kv", w)
    generator = torch.Generator().manual_seed(seed)
    state = {"logit_scale": torch.tensor(2.3)}
    for name, size in sizes.items():
        is_norm_weight = name.endswith("weight") and ".ln_" in name
        state[name] = torch.randn(size, generator=generator) * std + (1.0 if is_norm_weight else 0.0)
    return state


class Reference:
    """Features, logits and losses in float64."""

    def __init__(self, state: dict[str, Tensor], shape: Shape, *, corrected: bool = False) -> None:
        self.state = {name: tensor.double() for name, tensor in state.items()}
        self.shape = shape
        self.corrected = corrected

    def norm(self, x: Tensor, name: str) -> Tensor:
        weight, bias = self.state[f"{name}.weight"], self.state[f"{name}.bias"]
        mean, variance = x.mean(-1, keepdim=True), x.var(-1, keepdim=True, unbiased=False)
        return (x - mean) / (variance + 1e-5).sqrt() * weight + bias

    def linear(self, x: Tensor, name: str) -> Tensor:
        return x @ self.state[f"{name}weight"].T + self.state[f"{name}bias"]

    def attend(self, x: Tensor, seen: Tensor, name: str, heads: int, hidden: Tensor | None = None) -> Tensor:
        """`hidden` [R, T, S]: True where a query may not see a key."""
        together = self.state.get(f"{name}.in_proj_weight")
        weights = together.chunk(3) if together is not None else [self.state[f"{name}.{part}_proj_weight"] for part in "qkv"]
        biases = self.state[f"{name}.in_proj_bias"].chunk(3)
        q, k, v = (
            (y @ weight.T + bias).unflatten(-1, (heads, -1)).transpose(1, 2)
            for y, weight, bias in zip((x, seen, seen), weights, biases, strict=True)
        )
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        if hidden is not None:
            scores = scores.masked_fill(hidden[:, None], -torch.inf)
        return self.linear((scores.softmax(-1) @ v).transpose(1, 2).flatten(2), f"{name}.out_proj.")

    def mlp(self, x: Tensor, name: str) -> Tensor:
        up = self.linear(self.norm(x, f"{name}.ln_2"), f"{name}.mlp.c_fc.")
        return x + self.linear(up * (1 + torch.erf(up / 2**0.5)) / 2, f"{name}.mlp.c_proj.")

    def block(self, x: Tensor, name: str, heads: int, hidden: Tensor | None = None) -> Tensor:
        normed = self.norm(x, f"{name}.ln_1")
        return self.mlp(x + self.attend(normed, normed, f"{name}.attn", heads, hidden), name)

    def pool(self, x: Tensor, name: str) -> Tensor:
        query = self.norm(self.state[f"{name}.query"], f"{name}.ln_q").expand(len(x), -1, -1)
        return self.attend(query, self.norm(x, f"{name}.ln_k"), f"{name}.attn", 4)

    def image(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Unit-norm features [B, E], and what the decoder looks at, [B, Q, W]."""
        grid = F.conv2d(pixels.double(), self.state["visual.conv1.weight"], stride=8).flatten(2).transpose(1, 2)
        first = self.state["visual.class_embedding"].expand(len(grid), 1, -1)
        x = self.norm(torch.cat([first, grid], 1) + self.state["visual.positional_embedding"], "visual.ln_pre")
        for i in range(self.shape.image_layers):
            x = self.block(x, f"visual.transformer.resblocks.{i}", self.shape.image_width // 16)
        if self.shape.layout == "joint":
            pooled = self.norm(self.pool(x, "visual.attn_pool"), "visual.ln_post")
            one, tokens = pooled[:, 0], pooled[:, 1:]
        else:
            x = self.norm(x, "visual.ln_post")
            tokens = self.pool(x, "visual.attn_pool")
            one = self.pool(x if self.shape.layout == "parallel" else tokens, "visual.attn_pool_contrastive")[:, 0]
        return F.normalize(one @ self.state["visual.proj"], dim=-1), tokens

    def text(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Unit-norm features [R, E], and the tokens' states [R, T, W]."""
        rows, length = ids.shape
        words = self.state["text.token_embedding.weight"][ids]
        x = torch.cat([words, self.state["text.cls_emb"].expand(rows, 1, -1)], 1)
        x = x + self.state["text.positional_embedding"][: length + 1]
        hidden = torch.zeros(rows, length + 1, length + 1, dtype=torch.bool)
        for row in range(rows):
            for query in range(length + 1):
                for key in range(length + 1):
                    at = key if self.corrected else key - 1
                    is_padding = 0 <= at < length and int(ids[row, at]) == PAD
                    hidden[row, query, key] = key > query or is_padding
        for i in range(self.shape.text_layers):
            x = self.block(x, f"text.transformer.resblocks.{i}", 4, hidden)
        cls = self.norm(x[:, -1], "text.ln_final")
        return F.normalize(cls @ self.state["text.text_projection"], dim=-1), x[:, :-1]

    def logits(self, ids: Tensor, image_tokens: Tensor) -> Tensor:
        """[R, T, V]."""
        x = self.text(ids)[1]
        hidden = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).triu(1)[None]
        for i in range(self.shape.decoder_layers):
            x = self.block(x, f"text_decoder.resblocks.{i}", 2, hidden)
            name = f"text_decoder.cross_attn.{i}"
            seen = self.norm(image_tokens, f"{name}.ln_1_kv")
            x = self.mlp(x + self.attend(self.norm(x, f"{name}.ln_1"), seen, f"{name}.attn", 2), name)
        return self.norm(x, "text_decoder.ln_final") @ self.state["text_decoder.text_projection"]

    def losses(self, pixels: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Contrastive and captioning loss, unweighted."""
        image, tokens = self.image(pixels)
        sims = image @ self.text(ids)[0].T * self.state["logit_scale"].exp()
        own = torch.arange(len(sims))
        contrast = -(sims.log_softmax(1)[own, own].mean() + sims.log_softmax(0)[own, own].mean()) / 2
        log_p = self.logits(ids, tokens)[:, :-1].log_softmax(-1).gather(2, ids[:, 1:, None])[:, :, 0]
        kept = ids[:, 1:] != PAD
        return contrast, -log_p[kept].mean()
