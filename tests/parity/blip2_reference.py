"""A Q-Former in float64, from LAVIS' names and the paper alone: one pass over [queries | text] with the mask as a matrix."""

import torch
import torch.nn.functional as F
from torch import Tensor


class Reference:
    """`state` has LAVIS' names. Every method takes images as features [B, N, D] before `ln_vision`."""

    def __init__(self, state: dict[str, Tensor], heads: int, cross_every: int = 2, dec_id: int | None = None) -> None:
        self.state = {name: tensor.double() for name, tensor in state.items()}
        self.heads, self.cross_every = heads, cross_every
        self.queries = state["query_tokens"].shape[1]
        self.layers = 1 + max(int(name.split(".")[4]) for name in state if name.startswith("Qformer.bert.encoder.layer."))
        self.dec_id = dec_id

    def linear(self, x: Tensor, name: str) -> Tensor:
        return F.linear(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"])

    def norm(self, x: Tensor, name: str, eps: float = 1e-12) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.state[f"{name}.weight"], self.state[f"{name}.bias"], eps)

    def attention(self, name: str, x: Tensor, seen: Tensor, visible: Tensor | None) -> Tensor:
        def split(part: str, of: Tensor) -> Tensor:
            return self.linear(of, f"{name}.self.{part}").unflatten(-1, (self.heads, -1)).transpose(1, 2)

        scores = split("query", x) @ split("key", seen).transpose(2, 3) / (x.shape[-1] / self.heads) ** 0.5
        if visible is not None:
            scores = scores.masked_fill(~visible[:, None], -1e9)
        mixed = (scores.softmax(-1) @ split("value", seen)).transpose(1, 2).flatten(2)
        return self.norm(self.linear(mixed, f"{name}.output.dense") + x, f"{name}.output.LayerNorm")

    def feed_forward(self, name: str, x: Tensor, suffix: str) -> Tensor:
        hidden = F.gelu(self.linear(x, f"{name}.intermediate{suffix}.dense"))
        return self.norm(self.linear(hidden, f"{name}.output{suffix}.dense") + x, f"{name}.output{suffix}.LayerNorm")

    def run(self, features: Tensor | None, ids: Tensor | None, visible: Tensor | None) -> Tensor:
        """States of [queries | text]; no queries without features."""
        parts = []
        if features is not None:
            parts.append(self.state["query_tokens"].expand(len(features), -1, -1))
            image = self.norm(features.double(), "ln_vision", 1e-5)
        if ids is not None:
            root = "Qformer.bert.embeddings."
            words = self.state[f"{root}word_embeddings.weight"][ids]
            parts.append(words + self.state[f"{root}position_embeddings.weight"][: ids.shape[1]])
        x = self.norm(torch.cat(parts, 1), "Qformer.bert.embeddings.LayerNorm")
        count = self.queries if features is not None else 0
        for i in range(self.layers):
            name = f"Qformer.bert.encoder.layer.{i}"
            x = self.attention(f"{name}.attention", x, x, visible)
            queries, text = x[:, :count], x[:, count:]
            if count and i % self.cross_every == 0:
                queries = self.attention(f"{name}.crossattention", queries, image, None)
            made = [self.feed_forward(name, queries, "_query")] if count else []
            x = torch.cat([*made, self.feed_forward(name, text, "")] if text.shape[1] else made, 1)
        return x

    def query_outputs(self, features: Tensor) -> Tensor:
        return self.run(features, None, None)

    def image_features(self, features: Tensor) -> Tensor:
        return F.normalize(self.linear(self.query_outputs(features), "vision_proj"), dim=-1)

    def text_features(self, ids: Tensor, mask: Tensor) -> Tensor:
        visible = mask.bool()[:, None].expand(-1, ids.shape[1], -1)
        return F.normalize(self.linear(self.run(None, ids, visible)[:, 0], "text_proj"), dim=-1)

    def itm_logits(self, features: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        seen = torch.cat([mask.new_ones(len(mask), self.queries), mask], 1).bool()
        states = self.run(features, ids, seen[:, None].expand(-1, seen.shape[1], -1))
        return self.linear(states[:, : self.queries], "itm_head").mean(1)

    def lm_logits(self, features: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        q, t = self.queries, ids.shape[1]
        ids = ids.clone()
        ids[:, 0] = self.dec_id
        visible = torch.zeros(len(ids), q + t, q + t, dtype=torch.bool)
        visible[:, :, :q] = True
        visible[:, q:, q:] = torch.ones(t, t).tril().bool() & mask.bool()[:, None]
        states = self.run(features, ids, visible)[:, q:]
        root = "Qformer.cls.predictions."
        hidden = self.norm(F.gelu(self.linear(states, f"{root}transform.dense")), f"{root}transform.LayerNorm")
        return F.linear(hidden, self.state["Qformer.bert.embeddings.word_embeddings.weight"], self.state[f"{root}decoder.bias"])

    def losses(
        self, features: Tensor, ids: Tensor, mask: Tensor, images: Tensor, negatives: tuple[Tensor, Tensor]
    ) -> list[Tensor]:
        """ITC, ITM, ITG by the formulas, with these negatives."""
        n = len(ids)
        image, text = self.image_features(features), self.text_features(ids, mask)
        sims = torch.stack([(image[i] @ text.T).max(0).values for i in range(n)]) / self.state["temp"]
        itc = torch.zeros((), dtype=torch.float64)
        for i in range(n):
            for direction in (sims[i], sims[:, i]):
                same = (images == images[i]).double()
                itc -= ((0.9 * same / same.sum() + 0.1 / n) * direction.log_softmax(0)).sum() / (2 * n)
        pairs = [(i, i, 1) for i in range(n)]
        pairs += [(int(negatives[0][i]), i, 0) for i in range(n)] + [(i, int(negatives[1][i]), 0) for i in range(n)]
        at = [torch.tensor(column) for column in zip(*pairs, strict=True)]
        itm = F.cross_entropy(self.itm_logits(features[at[0]], ids[at[1]], mask[at[1]]), at[2])
        log_p = self.lm_logits(features, ids, mask)[:, :-1].log_softmax(-1)
        kept = mask[:, 1:].bool()
        own = log_p.gather(-1, ids[:, 1:, None])[..., 0]
        lm = -(0.9 * own + 0.1 * log_p.mean(-1))[kept].mean()
        return [itc, itm, lm]
