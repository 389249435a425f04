"""SOHO under its authors' names against a float64 forward written from their code, step by step, dictionary included."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from capfilt.config.architectures.soho import SohoArchitecture
from capfilt.errors import CheckpointError, ConfigError
from capfilt.modeling.soho import SOHO
from capfilt.modeling.soho.original import to_original
from capfilt.modeling.soho.training import IGNORED, Choices

WIDTH, CODES, VOCABULARY, HEADS, LAYERS, STAGES = 16, 12, 50, 2, 2, 4
DECAY = 0.4
TOLD = {"language": {"num_attention_heads": HEADS, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}}
Weights = dict[str, Tensor]


class Shapes:
    """The authors' state dict: names and shapes, written out."""

    def __init__(self, *, bottleneck: bool, gate: bool, begin: bool, pos: bool, norm: bool) -> None:
        self.of: dict[str, tuple[int, ...]] = {}
        self.conv("backbone.conv1", 8, 3, 7)
        self.norm("backbone.bn1", 8)
        before = 8
        for stage in range(STAGES):
            inner = 8 << stage
            out = inner * (4 if bottleneck else 1)
            at = f"backbone.layer{stage + 1}.0"
            sides = ((before, inner, 1), (inner, inner, 3), (inner, out, 1)) if bottleneck else ((before, out, 3), (out, out, 3))
            for n, (a, b, side) in enumerate(sides):
                self.conv(f"{at}.conv{n + 1}", b, a, side)
                self.norm(f"{at}.bn{n + 1}", b)
            if stage or bottleneck:
                self.conv(f"{at}.downsample.0", out, before, 1)
                self.norm(f"{at}.downsample.1", out)
            before = out
        for at, a, b in (("neck.conv", before, WIDTH), *([("neck.gate_fc", 2 * WIDTH, 2)] if gate else [])):
            self.conv(f"{at}.conv", b, a, 1)
            if norm:
                self.norm(f"{at}.bn", b)
            else:
                self.of[f"{at}.conv.bias"] = (b,)
        for at in (*(["begin_line"] if begin else []), *(["pos_line"] if pos else [])):
            self.linear(f"neck.{at}", WIDTH, WIDTH)
        self.linear("neck.ln", WIDTH)
        self.of["neck.mask_emb.weight"] = (1, WIDTH)
        self.of |= {"neck.vq.embed": (CODES, WIDTH), "neck.vq.embed_avg": (CODES, WIDTH)}
        self.of |= {"neck.vq.cluster_size": (CODES,), "neck.vq.cluster_sum": (CODES,)}
        bert = "language.bert"
        for name, rows in (("word", VOCABULARY), ("position", 20), ("token_type", 2)):
            self.of[f"{bert}.embeddings.{name}_embeddings.weight"] = (rows, WIDTH)
        self.linear(f"{bert}.embeddings.LayerNorm", WIDTH)
        for i in range(LAYERS):
            at = f"{bert}.encoder.layer.{i}"
            for name in ("query", "key", "value"):
                self.linear(f"{at}.attention.self.{name}", WIDTH, WIDTH)
            self.linear(f"{at}.attention.output.dense", WIDTH, WIDTH)
            self.linear(f"{at}.attention.output.LayerNorm", WIDTH)
            self.linear(f"{at}.intermediate.dense", 32, WIDTH)
            self.linear(f"{at}.output.dense", WIDTH, 32)
            self.linear(f"{at}.output.LayerNorm", WIDTH)
        self.of["head.match_class.weight"] = (2, WIDTH)

    def conv(self, name: str, out: int, before: int, side: int) -> None:
        self.of[f"{name}.weight"] = (out, before, side, side)

    def linear(self, name: str, *shape: int) -> None:
        self.of |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}

    def norm(self, name: str, width: int) -> None:
        self.linear(name, width)
        self.of |= {f"{name}.running_mean": (width,), f"{name}.running_var": (width,), f"{name}.num_batches_tracked": ()}


def make(seed: int = 0, **changes: bool) -> Weights:
    """All that matters is far from zero and one, so that what comes out depends on it."""
    generator = torch.Generator().manual_seed(seed)
    found: Weights = {}
    kinds = {"bottleneck": False, "gate": True, "begin": False, "pos": True, "norm": True} | changes
    for name, shape in Shapes(**kinds).of.items():
        noise = torch.randn(shape, generator=generator)
        if name.endswith("num_batches_tracked"):
            noise = torch.tensor(7)
        elif name.endswith("running_var") or (len(shape) == 1 and name.endswith("weight")):
            noise = 1 + 0.2 * noise.abs()
        elif len(shape) == 4:
            noise = noise / math.sqrt(shape[1] * shape[2] * shape[3])
        elif name.endswith("word_embeddings.weight"):
            noise = 0.6 * noise
        elif name.endswith(("cluster_size", "cluster_sum")):
            noise = (3 * noise.abs()).floor()
        elif "neck.vq" not in name and "mask_emb" not in name:
            noise = 0.15 * noise
        found[name] = noise
    found["mask_l_fc.weight"] = found["language.bert.embeddings.word_embeddings.weight"]
    return found


class Exact:
    """The authors' forward, in float64."""

    def __init__(self, state: Weights, *, train: bool, frozen_stages: int = 1) -> None:
        self.w = {name: x.double() if x.is_floating_point() else x.clone() for name, x in state.items()}
        self.train = train
        self.frozen = ("backbone.bn1", *(f"backbone.layer{i + 1}" for i in range(frozen_stages)))

    def norm(self, x: Tensor, name: str) -> Tensor:
        w = self.w
        batch = self.train and not name.startswith(self.frozen)
        mean, var = w[f"{name}.running_mean"], w[f"{name}.running_var"]
        if batch:
            mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
            count = x.numel() / x.shape[1]
            w[f"{name}.running_mean"] = 0.9 * w[f"{name}.running_mean"] + 0.1 * mean
            w[f"{name}.running_var"] = 0.9 * w[f"{name}.running_var"] + 0.1 * var * count / (count - 1)
            w[f"{name}.num_batches_tracked"] += 1
        scaled = (x - mean[:, None, None]) / (var[:, None, None] + 1e-5).sqrt()
        return scaled * w[f"{name}.weight"][:, None, None] + w[f"{name}.bias"][:, None, None]

    def line(self, x: Tensor, name: str) -> Tensor:
        return x @ self.w[f"{name}.weight"].T + self.w[f"{name}.bias"]

    def layer_norm(self, x: Tensor, name: str, eps: float) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.w[f"{name}.weight"], self.w[f"{name}.bias"], eps)

    def small(self, x: Tensor, name: str) -> Tensor:
        """A 1x1 convolution and its norm."""
        out = F.conv2d(x, self.w[f"{name}.conv.weight"], self.w.get(f"{name}.conv.bias"))
        return self.norm(out, f"{name}.bn") if f"{name}.bn.weight" in self.w else out

    def trunk(self, pixels: Tensor) -> Tensor:
        w = self.w
        x = F.relu(self.norm(F.conv2d(pixels, w["backbone.conv1.weight"], stride=2, padding=3), "backbone.bn1"))
        x = F.max_pool2d(x, 3, 2, 1)
        for stage in range(STAGES):
            at = f"backbone.layer{stage + 1}.0"
            is_bottleneck = f"{at}.conv3.weight" in w
            strided = 2 if is_bottleneck else 1
            y = x
            for n in range(1, 4 if is_bottleneck else 3):
                weight = w[f"{at}.conv{n}.weight"]
                stride = 2 if stage and n == strided else 1
                y = self.norm(F.conv2d(y, weight, stride=stride, padding=weight.shape[-1] // 2), f"{at}.bn{n}")
                if f"{at}.conv{n + 1}.weight" in w:
                    y = F.relu(y)
            if f"{at}.downsample.0.weight" in w:
                shortcut = F.conv2d(x, w[f"{at}.downsample.0.weight"], stride=2 if stage else 1)
                x = self.norm(shortcut, f"{at}.downsample.1")
            x = F.relu(x + y)
        return x

    def dictionary(self, features: Tensor) -> tuple[Tensor, Tensor]:
        w = self.w
        indices = ((features[:, None] - w["neck.vq.embed"][None]) ** 2).sum(-1).argmin(1)
        if self.train:
            hot = F.one_hot(indices, CODES).double()
            w["neck.vq.cluster_sum"] = w["neck.vq.cluster_sum"] + hot.sum(0)
            w["neck.vq.cluster_size"] = DECAY * w["neck.vq.cluster_size"] + (1 - DECAY) * hot.sum(0)
            w["neck.vq.embed_avg"] = DECAY * w["neck.vq.embed_avg"] + (1 - DECAY) * hot.T @ features
            size = w["neck.vq.cluster_size"]
            smooth = (size + 1e-5) / (size.sum() + CODES * 1e-5) * size.sum()
            w["neck.vq.embed"] = w["neck.vq.embed_avg"] / smooth[:, None]
        return w["neck.vq.embed"][indices], indices

    def positions(self, visible: Tensor) -> Tensor:
        half = WIDTH // 2
        wave = 10_000.0 ** (2 * (torch.arange(half, dtype=torch.float64) // 2) / half)
        found = []
        for axis in (1, 2):
            place = visible.double().cumsum(axis)
            angle = (place / (place.narrow(axis, -1, 1) + 1e-6) * 2 * math.pi)[..., None] / wave
            found.append(torch.stack([angle[..., 0::2].sin(), angle[..., 1::2].cos()], dim=-1).flatten(-2))
        return torch.cat(found, dim=-1).flatten(1, 2)

    def bert(self, ids: Tensor, mask: Tensor, tokens: Tensor, visible: Tensor) -> Tensor:
        w, at = self.w, "language.bert.embeddings"
        text = w[f"{at}.word_embeddings.weight"][ids] + w[f"{at}.position_embeddings.weight"][: ids.shape[1]]
        text = self.layer_norm(text + w[f"{at}.token_type_embeddings.weight"][0], f"{at}.LayerNorm", 1e-12)
        x = torch.cat([text, tokens], dim=1)
        bias = (1 - torch.cat([mask, visible], dim=1).double())[:, None, None] * -10_000.0
        for i in range(LAYERS):
            at = f"language.bert.encoder.layer.{i}"
            q, k, v = (
                self.line(x, f"{at}.attention.self.{name}").unflatten(-1, (HEADS, -1)).transpose(1, 2)
                for name in ("query", "key", "value")
            )
            weights = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]) + bias).softmax(-1)
            mixed = self.line((weights @ v).transpose(1, 2).flatten(2), f"{at}.attention.output.dense")
            x = self.layer_norm(x + mixed, f"{at}.attention.output.LayerNorm", 1e-12)
            hidden = self.line(x, f"{at}.intermediate.dense")
            hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
            x = self.layer_norm(x + self.line(hidden, f"{at}.output.dense"), f"{at}.output.LayerNorm", 1e-12)
        return x

    def step(self, pixels: Tensor, visible: Tensor, choices: Choices) -> dict[str, Tensor]:
        """Losses, and what they are made of."""
        w = self.w
        v = self.small(F.max_pool2d(self.trunk(pixels.double()), 2), "neck.conv")
        batch, _, height, width = v.shape
        flat = v.permute(0, 2, 3, 1).reshape(-1, WIDTH)
        if "neck.begin_line.weight" in w:
            flat = self.line(flat, "neck.begin_line")
        code, indices = self.dictionary(flat)
        if "neck.pos_line.weight" in w:
            code = self.line(code, "neck.pos_line")
        code = code.reshape(batch, height, width, WIDTH).permute(0, 3, 1, 2)
        mixed = code + v
        if "neck.gate_fc.conv.weight" in w:
            share = self.small(torch.cat([code, v], dim=1), "neck.gate_fc").softmax(1)
            mixed = code * share[:, :1] + v * share[:, 1:]
        mixed = mixed.flatten(2).transpose(1, 2)
        indices, seen = indices.view(batch, -1), visible.flatten(1)
        labels = torch.full_like(indices, IGNORED)
        for b in range(batch):
            location = int(choices.locations_B[b])
            if choices.chosen_B[b] and seen[b, location]:
                same = (indices[b] == indices[b, location]) & seen[b]
                labels[b, same] = indices[b, same]
        tokens = torch.where((labels != IGNORED)[..., None], w["neck.mask_emb.weight"][0], mixed) + self.positions(visible)
        tokens = self.layer_norm(tokens, "neck.ln", 1e-5)
        states = self.bert(choices.ids_BT, choices.mask_BT, tokens, seen.long())
        length = choices.ids_BT.shape[1]
        words = states[:, :length] @ w["language.bert.embeddings.word_embeddings.weight"].T
        codes = F.normalize(states[:, length:], dim=-1) @ F.normalize(w["neck.vq.embed"], dim=-1).T
        match = states[:, 0] @ w["head.match_class.weight"].T

        def mean(logits: Tensor, wanted: Tensor) -> Tensor:
            total = F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), ignore_index=IGNORED, reduction="sum")
            return total / ((wanted != IGNORED).sum() + 1e-6)

        losses = {"mlm": mean(words, choices.words_BT), "mvm": mean(codes, labels)}
        losses["itm"] = F.cross_entropy(match, choices.matches_B)
        return losses | {"features": v, "indices": indices, "labels": labels, "match": match, "words": words, "codes": codes}


def inputs(seed: int, pairs: int, size: int, sizes: Tensor) -> tuple[Tensor, Choices]:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randn(pairs, 3, size, size, generator=generator)
    length = 6 + seed
    ids = torch.randint(5, VOCABULARY, (pairs, length), generator=generator)
    lengths = torch.randint(3, length + 1, (pairs,), generator=generator)
    mask = (torch.arange(length)[None] < lengths[:, None]).long()
    asked = (torch.rand(pairs, length, generator=generator) < 0.4) & (mask > 0)
    words = torch.where(asked, torch.randint(5, VOCABULARY, (pairs, length), generator=generator), IGNORED)
    for i, (height, width) in enumerate(sizes.tolist()):
        pixels[i, :, height:] = 0
        pixels[i, :, :, width:] = 0
    location = torch.randint((size // 64) ** 2, (1,), generator=generator).expand(pairs)
    matches = torch.randint(0, 2, (pairs,), generator=generator)
    return pixels, Choices(ids * mask, mask, words, matches, location, torch.rand(pairs, generator=generator) < 0.8)


KINDS: list[dict[str, bool]] = [
    {},
    {"bottleneck": True},
    {"gate": False},
    {"begin": True, "pos": False},
    {"norm": False},
]


def told(changes: dict[str, Any] | None = None) -> dict[str, Any]:
    return {**TOLD, **(changes or {})}


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("pairs", [1, 3])
@torch.no_grad()
def test_logits_and_losses_in_evaluation(kind: dict[str, bool], pairs: int) -> None:
    state = make(**kind)
    model = SOHO.from_original(state, told())
    assert not model.training
    sizes = torch.tensor([[128, 128], [128, 64], [64, 128]][:pairs])
    for seed in range(3):
        pixels, choices = inputs(seed, pairs, 128, sizes)
        visible = model.visible(pixels, sizes)
        exact = Exact(state, train=False).step(pixels, visible, choices)
        found = model.losses({"pixels": pixels, "ids": choices.ids_BT, "mask": choices.mask_BT, "sizes": sizes}, choices=choices)
        features = model.visual_features(pixels)
        indices = model.dictionary_indices(features)
        masked = exact["labels"] != IGNORED
        tokens = model.visual_tokens(features, indices, visible_BHW=visible, masked_BN=masked)
        given = (choices.ids_BT, choices.mask_BT, tokens)
        found |= {
            "features": features,
            "indices": indices,
            "match": model.itm_logits(*given, visible_BHW=visible),
            "words": model.mlm_logits(*given, visible_BHW=visible),
            "codes": model.mvm_logits(*given, visible_BHW=visible),
        }
        for name, tensor in found.items():
            torch.testing.assert_close(tensor.double(), exact[name].double(), atol=1e-5, rtol=1e-5, msg=f"{name} {seed}")


@pytest.mark.parametrize("kind", [KINDS[0], KINDS[2], KINDS[3]], ids=str)
def test_training_steps_move_the_dictionary_as_the_original(kind: dict[str, bool]) -> None:
    state = make(**kind)
    model = SOHO.from_original({"state_dict": state, "meta": {"epoch": 1}}, told()).train()
    exact = Exact(state, train=True)
    sizes = torch.full((4, 2), 192)
    masked = 0
    for seed in range(3):
        pixels, choices = inputs(seed, 4, 192, sizes)
        expected = exact.step(pixels, model.visible(pixels, None), choices)
        found = model.losses({"pixels": pixels, "ids": choices.ids_BT, "mask": choices.mask_BT}, choices=choices)
        masked += int((expected["labels"] != IGNORED).sum())
        for name in ("mlm", "mvm", "itm"):
            torch.testing.assert_close(found[name].double(), expected[name], atol=1e-5, rtol=1e-5)
    assert masked > 5
    after = to_original(model)
    assert set(after) == set(state)
    for name, tensor in after.items():
        torch.testing.assert_close(tensor.double(), exact.w[name].double(), atol=2e-5, rtol=2e-5, msg=name)


def test_gradients_are_the_originals() -> None:
    """Straight through the dictionary, none to the codes, none to the frozen stem and first stage."""
    state = make(begin=True)
    model = SOHO.from_original(state, told())
    pixels, choices = inputs(0, 3, 128, torch.full((3, 2), 128))
    losses = model.losses({"pixels": pixels, "ids": choices.ids_BT, "mask": choices.mask_BT}, choices=choices)
    sum(losses.values()).backward()
    exact = Exact(state, train=False)
    learns = {"neck.conv.conv.weight", "neck.begin_line.weight", "neck.pos_line.bias", "backbone.layer3.0.conv1.weight"}
    real = exact.dictionary

    def straight(features: Tensor) -> tuple[Tensor, Tensor]:
        code, indices = real(features)
        return features + (code - features).detach(), indices

    exact.dictionary = straight  # type: ignore[method-assign]
    for name in learns:
        exact.w[name].requires_grad_()
    expected = exact.step(pixels, model.visible(pixels, None), choices)
    (expected["mlm"] + expected["mvm"] + expected["itm"]).backward()
    ours = {
        "neck.conv.conv.weight": model.visual.projection.conv.weight,
        "neck.begin_line.weight": model.visual.line_before.weight,
        "neck.pos_line.bias": model.visual.line_after.bias,
        "backbone.layer3.0.conv1.weight": model.trunk.get_submodule("layer3.0.conv1").weight,
    }
    for name in learns:
        torch.testing.assert_close(ours[name].grad.double(), exact.w[name].grad, atol=1e-5, rtol=1e-4, msg=name)
    assert model.trunk.conv1.weight.grad is None
    assert model.trunk.get_submodule("layer1.0.conv1").weight.grad is None


# ── names, settings, errors ─────────────────────────────────────────────────────────────────────────────────


def same(a: SOHO, b: SOHO) -> None:
    assert a.config == b.config
    for (name, one), two in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        assert torch.equal(one, two), name


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_names_there_and_back(kind: dict[str, bool]) -> None:
    state = make(**kind)
    model = SOHO.from_original(state, told())
    back = to_original(model)
    assert set(back) == set(state)
    for name, tensor in back.items():
        assert torch.equal(tensor, state[name]), name
    same(SOHO.from_original({"model": {f"module.{name}": x for name, x in back.items()}}, model.config), model)
    without = {name: x for name, x in state.items() if not name.endswith("num_batches_tracked") and name != "mask_l_fc.weight"}
    assert torch.equal(SOHO.from_original(without, told()).trunk.conv1.weight, model.trunk.conv1.weight)


def test_shapes_and_the_published_configuration_say_the_rest() -> None:
    config = SOHO.from_original(make(), TOLD).config
    assert (config.image.stem, config.image.block, config.image.blocks) == ("imagenet", "basic", (1, 1, 1, 1))
    assert config.image.frozen_stages == 1
    dictionary = config.dictionary
    assert (dictionary.codes, dictionary.update, dictionary.decay, dictionary.unused) == (CODES, "ema_count", 0.4, "fade")
    assert (dictionary.mix, dictionary.line_before, dictionary.line_after) == ("gate", False, True)
    assert (config.mvm_probability, config.mvm_draw, config.max_text_length) == (0.015, "batch", 16)


def test_settings_are_taken_in_either_language(tmp_path: Path) -> None:
    state = make()
    theirs = {
        "model": {
            "type": "SOHOSingleStreamPre",
            "backbone": {"type": "ResNet", "depth": 18, "frozen_stages": -1},
            "neck": {"type": "SimpleVDforPreGate", "decay": 0.1, "mask_prob": 0.5, "norm_cfg": {"type": "SyncBN"}},
            "language": {"num_attention_heads": 4, "hidden_act": "gelu"},
            "head": {"type": "MLM_MVM_ITM_head"},
        }
    }
    ours = {"image": {"frozen_stages": -1}, "dictionary": {"decay": 0.1}, "mvm_probability": 0.5, "text": {"heads": 4}}
    same(SOHO.from_original(state, theirs), SOHO.from_original(state, ours))
    path = tmp_path / "soho.yaml"
    path.write_text("image: {frozen_stages: -1}\ndecay: 0.1\nmask_prob: 0.5\nnum_attention_heads: 4\n", encoding="utf-8")
    same(SOHO.from_original(state, path), SOHO.from_original(state, ours))
    papers = SOHO.from_original(state, {**ours, "dictionary": {"update": "ema_mean", "decay": 0.99}})
    assert isinstance(papers.config, SohoArchitecture)
    assert "visual.dictionary.counts_K" not in papers.state_dict()
    assert torch.equal(to_original(papers)["neck.vq.embed"], state["neck.vq.embed"])


def test_all_that_does_not_fit_is_listed() -> None:
    state = make()
    del state["neck.ln.bias"], state["language.bert.encoder.layer.1.attention.self.key.weight"]
    state["neck.pos_line.weight"] = torch.zeros(3, 3)
    state["stranger.weight"] = torch.zeros(2)
    with pytest.raises(CheckpointError) as caught:
        SOHO.from_original(state, told())
    for line in (
        "missing neck.ln.bias [16]",
        "missing language.bert.encoder.layer.1.attention.self.key.weight [16, 16]",
        "misshapen neck.pos_line.weight: expected [16, 16], found [3, 3]",
        "unexpected stranger.weight [2]",
    ):
        assert line in str(caught.value)


def test_what_cannot_be_a_soho_is_told() -> None:
    with pytest.raises(CheckpointError, match=r"expected text\.heads"):
        SOHO.from_original(make())
    with pytest.raises(CheckpointError, match=r"neck\.vq\.embed of 2 axes, found none"):
        SOHO.from_original({name: x for name, x in make().items() if name != "neck.vq.embed"}, told())
    with pytest.raises(ConfigError, match="mvm_probability"):
        SOHO.from_original(make(), told({"mask_prob": 3.0}))
    with pytest.raises(CheckpointError, match="state dict"):
        SOHO.from_original({"epoch": 3}, told())
