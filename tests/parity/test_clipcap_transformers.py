"""ClipCap under the released checkpoints' names: mappers against a float64 computation written from the paper and the released
weights' shapes, GPT-2 against transformers with `inputs_embeds`, CLIP against transformers. Float32, equal to 1e-5."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from capfilt.config.decoding import Beam, Greedy
from capfilt.modeling.clipcap import ClipCap
from capfilt.modeling.clipcap.image import centre_square
from capfilt.modeling.clipcap.original import to_original

transformers = pytest.importorskip("transformers")
VOCABULARY, WIDTH, EMBED, END = 61, 32, 24, 7
SHAPES = [
    ("mlp", 5, 0, 0),
    ("mlp", 10, 0, 0),
    ("transformer", 5, 3, 2),
    ("transformer", 4, 6, 1),
]  # mapper, k, clip length, layers
BATCHES = [(1, 4), (3, 9), (5, 12)]  # pairs, longest text
TOLD = {"n_head": 4, "stop_token_id": END}
"""What shapes do not say."""


def gpt2() -> Any:
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY, n_positions=64, n_embd=WIDTH, n_layer=2, n_head=4, bos_token_id=None, eos_token_id=END,
        pad_token_id=0,
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(config).eval()


def mapper_shapes(kind: str, k: int, clip_length: int, layers: int) -> dict[str, list[int]]:
    if kind == "mlp":
        hidden = WIDTH * k // 2
        return {"model.0.weight": [hidden, EMBED], "model.0.bias": [hidden],
                "model.2.weight": [WIDTH * k, hidden], "model.2.bias": [WIDTH * k]}  # fmt: skip
    found = {
        "linear.weight": [clip_length * WIDTH, EMBED], "linear.bias": [clip_length * WIDTH], "prefix_const": [k, WIDTH]
    }  # fmt: skip
    for i in range(layers):
        block = {
            "norm1.weight": [WIDTH], "norm1.bias": [WIDTH], "norm2.weight": [WIDTH], "norm2.bias": [WIDTH],
            "attn.to_queries.weight": [WIDTH, WIDTH], "attn.to_keys_values.weight": [2 * WIDTH, WIDTH],
            "attn.project.weight": [WIDTH, WIDTH], "attn.project.bias": [WIDTH], "mlp.fc1.weight": [2 * WIDTH, WIDTH],
            "mlp.fc1.bias": [2 * WIDTH], "mlp.fc2.weight": [WIDTH, 2 * WIDTH], "mlp.fc2.bias": [WIDTH],
        }  # fmt: skip
        found |= {f"transformer.layers.{i}.{name}": shape for name, shape in block.items()}
    return found


def checkpoint(shape: tuple[str, int, int, int], seed: int = 0, std: float = 0.15) -> tuple[dict[str, Tensor], Any]:
    """A state dict as released, old causal-mask buffers included, and its GPT-2."""
    generator = torch.Generator().manual_seed(seed)

    def draw(sizes: Any, *, is_norm_weight: bool) -> Tensor:
        return torch.randn(list(sizes), generator=generator) * std + (1.0 if is_norm_weight else 0.0)

    network = gpt2()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(draw(parameter.shape, is_norm_weight=parameter.ndim == 1 and name.endswith("weight")))
    state = {f"gpt.{name}": tensor.clone() for name, tensor in network.state_dict().items()}
    state |= {
        "gpt.transformer.h.0.attn.bias": torch.ones(1, 1, 64, 64),
        "gpt.transformer.h.0.attn.masked_bias": torch.tensor(-1e4),
    }
    for name, sizes in mapper_shapes(*shape).items():
        state[f"clip_project.{name}"] = draw(sizes, is_norm_weight="norm" in name and name.endswith("weight"))
    return state, network


def prefix_by_hand(state: dict[str, Tensor], embed: Tensor, k: int) -> Tensor:
    """[B, k, W] in float64."""
    p = {
        name.removeprefix("clip_project."): tensor.double() for name, tensor in state.items() if name.startswith("clip_project.")
    }
    embed = embed.double()
    if "prefix_const" not in p:
        hidden = torch.tanh(embed @ p["model.0.weight"].T + p["model.0.bias"])
        return (hidden @ p["model.2.weight"].T + p["model.2.bias"]).view(len(embed), k, WIDTH)
    x = (embed @ p["linear.weight"].T + p["linear.bias"]).view(len(embed), -1, WIDTH)
    x = torch.cat([x, p["prefix_const"].expand(len(embed), -1, -1)], 1)
    heads = 8
    for i in range(1 + max(int(name.split(".")[2]) for name in p if name.startswith("transformer."))):
        own = {name.removeprefix(f"transformer.layers.{i}."): tensor for name, tensor in p.items()}
        y = F.layer_norm(x, (WIDTH,), own["norm1.weight"], own["norm1.bias"])
        queries = (y @ own["attn.to_queries.weight"].T).unflatten(2, (heads, -1))
        keys, values = (y @ own["attn.to_keys_values.weight"].T).unflatten(2, (2, heads, -1)).unbind(2)
        weights = (torch.einsum("bnhd,bmhd->bhnm", queries, keys) / (WIDTH // heads) ** 0.5).softmax(-1)
        mixed = torch.einsum("bhnm,bmhd->bnhd", weights, values).flatten(2)
        x = x + mixed @ own["attn.project.weight"].T + own["attn.project.bias"]
        y = F.layer_norm(x, (WIDTH,), own["norm2.weight"], own["norm2.bias"])
        x = x + F.relu(y @ own["mlp.fc1.weight"].T + own["mlp.fc1.bias"]) @ own["mlp.fc2.weight"].T + own["mlp.fc2.bias"]
    return x[:, -k:]


def texts(pairs: int, length: int) -> tuple[Tensor, Tensor]:
    """Ids and mask, padded right with token 0; a true token 0 is among them."""
    generator = torch.Generator().manual_seed(pairs * 100 + length)
    ids = torch.randint(1, VOCABULARY, (pairs, length), generator=generator)
    lengths = torch.randint(2, length + 1, (pairs,), generator=generator)
    lengths[0] = length
    ids[0, 1] = 0
    mask = (torch.arange(length)[None] < lengths[:, None]).long()
    return ids * mask, mask


def embeddings(images: int, seed: int = 0) -> Tensor:
    return torch.randn(images, EMBED, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", SHAPES)
def test_prefixes_scores_and_losses_equal_the_reference(shape: tuple[str, int, int, int]) -> None:
    state, network = checkpoint(shape)
    k = shape[1]
    ours = ClipCap.from_original({"model": {f"module.{name}": tensor for name, tensor in state.items()}}, TOLD)
    published = ClipCap.from_original(state, TOLD | {"ignore_index": 0})
    assert (ours.config.mapper.kind, ours.config.prefix_length, ours.config.embed_dim) == (shape[0], k, EMBED)
    for pairs, length in BATCHES:
        embed = embeddings(pairs)
        ids, mask = texts(pairs, length)
        prefix = prefix_by_hand(state, embed, k).float()
        torch.testing.assert_close(ours.prefix_embeddings(embed), prefix, atol=1e-5, rtol=0)

        vectors = torch.cat([prefix, network.transformer.wte(ids)], 1)
        seen = torch.cat([torch.ones(pairs, k, dtype=torch.long), mask], 1)
        expected = network(inputs_embeds=vectors, attention_mask=seen).logits
        found = ours.lm_logits(ids, mask, embed)
        torch.testing.assert_close(found[seen.bool()], expected[seen.bool()], atol=1e-5, rtol=1e-5)

        scores = expected[:, k - 1 : -1].flatten(0, 1)
        batch = {"embeds": embed, "ids": ids, "mask": mask}
        by_zero = F.cross_entropy(scores, ids.flatten(), ignore_index=0)
        torch.testing.assert_close(published.losses(batch)["lm"], by_zero, atol=1e-5, rtol=1e-5)
        by_mask = F.cross_entropy(scores, ids.masked_fill(mask == 0, -100).flatten())
        torch.testing.assert_close(ours.losses(batch)["lm"], by_mask, atol=1e-5, rtol=1e-5)
        assert (by_mask - by_zero).abs() > 1e-4  # the true token 0
        named = {"prefix": embed, "tokens": ids, "mask": seen.float()}  # as the published training hands them over
        assert torch.equal(ours.losses(named)["lm"], ours.losses(batch)["lm"])


@pytest.mark.parametrize("shape", SHAPES[1:3])
def test_gradients_equal_the_reference(shape: tuple[str, int, int, int]) -> None:
    state, network = checkpoint(shape)
    ours = ClipCap.from_original(state, TOLD)
    ids, mask = texts(3, 9)
    theirs = {name: tensor.double().requires_grad_() for name, tensor in state.items() if name.startswith("clip_project.")}
    prefix = prefix_by_hand(theirs, embeddings(3), shape[1])
    network = network.double()
    scores = network(inputs_embeds=torch.cat([prefix, network.transformer.wte(ids)], 1)).logits[:, shape[1] - 1 : -1]
    F.cross_entropy(scores.flatten(0, 1), ids.masked_fill(mask == 0, -100).flatten()).backward()
    ours.losses({"embeds": embeddings(3), "ids": ids, "mask": mask})["lm"].backward()
    gradients = ClipCap.from_original(state, TOLD)
    for parameter, gradient in zip(gradients.parameters(), [p.grad for p in ours.parameters()], strict=True):
        parameter.data.copy_(gradient)
    for name, gradient in to_original(gradients).items():
        expected = theirs[name].grad if name in theirs else network.get_parameter(name.removeprefix("gpt.")).grad
        torch.testing.assert_close(gradient.double(), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "told",
    [
        {"n_head": 4, "stop_token_id": END},
        {"text": {"heads": 4, "end_id": END}, "mapper": {"heads": 8}},
        {"heads": 4, "end_id": END, "image": {"kind": "clip"}},
        {"gpt": {"n_head": 4, "n_embd": WIDTH, "eos_token_id": 50}, "eos_token_id": END, "only_prefix": True, "bs": 40},
        {"n_head": 4, "eos_token_id": END, "prefix_length": 5, "prefix_length_clip": 3, "prefix_size": EMBED, "num_layers": 2,
         "mapping_type": "transformer", "normalize_prefix": False},
    ],
)  # fmt: skip
def test_settings_may_be_told_in_ours_their_and_transformers_words(told: dict[str, Any]) -> None:
    state, network = checkpoint(SHAPES[2])
    told = told if "gpt" not in told else told | {"gpt": network.config}
    expected = ClipCap.from_original(state, TOLD)
    assert ClipCap.from_original(state, told).config == expected.config
    assert ClipCap.from_original(state, expected.config).config == expected.config


@pytest.mark.parametrize("shape", SHAPES)
def test_their_names_come_back_as_they_went_in(shape: tuple[str, int, int, int]) -> None:
    state, _ = checkpoint(shape)
    weights = {name: tensor for name, tensor in state.items() if not name.endswith((".attn.bias", ".masked_bias"))}
    back = to_original(ClipCap.from_original(state, TOLD))
    assert back.keys() == weights.keys()
    assert all(torch.equal(back[name], weights[name]) for name in weights)


@pytest.mark.parametrize(
    "decoding",
    [
        Greedy(max_length=14, min_length=0),
        Beam(max_length=14, min_length=0, beams=5),
        Beam(max_length=14, min_length=6, beams=3, length_penalty=0.0),
    ],
)
@torch.inference_mode()
def test_captions_equal_what_transformers_generates_behind_the_prefix(decoding: Greedy | Beam) -> None:
    seen: set[tuple[int, ...]] = set()
    for seed, shape in enumerate(SHAPES):
        state, network = checkpoint(shape, seed, std=0.3)
        end = written_often(network)
        ours = ClipCap.from_original(state, TOLD | {"stop_token_id": end})
        for images in (1, 8):
            embed = embeddings(images, seed)
            prefix = prefix_by_hand(state, embed, shape[1]).float()
            beams = {"num_beams": decoding.beams, "length_penalty": decoding.length_penalty} if isinstance(decoding, Beam) else {}
            expected = network.generate(
                inputs_embeds=prefix, attention_mask=torch.ones(prefix.shape[:2], dtype=torch.long), do_sample=False,
                max_new_tokens=decoding.max_length, min_new_tokens=decoding.min_length or None, eos_token_id=end,
                **beams,
            ).tolist()  # fmt: skip
            found = ours.generate(embed, None, decoding).ids_BnL[:, 0].tolist()
            assert [to_end(row, end) for row in found] == [to_end(row, end) for row in expected]
            seen |= {tuple(to_end(row, end)) for row in found}
    assert len(seen) > 15
    assert len({len(row) for row in seen}) > 2


def written_often(network: Any) -> int:
    """A token that ends texts at many lengths, so that finished beams compete."""
    start = torch.randn(20, 3, WIDTH, generator=torch.Generator().manual_seed(1))
    ids = network.generate(inputs_embeds=start, do_sample=False, max_new_tokens=14, eos_token_id=VOCABULARY)
    return int(ids.flatten().mode().values)


def to_end(ids: list[int], end: int) -> list[int]:
    return ids[: ids.index(end) + 1] if end in ids else ids


@torch.inference_mode()
def test_pictures_become_the_embeddings_of_transformers_clip(tmp_path: Path) -> None:
    config = transformers.CLIPConfig(
        projection_dim=EMBED,
        vision_config={"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
                       "image_size": 32, "patch_size": 8},
        text_config={"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
                     "vocab_size": 20},
    )  # fmt: skip
    clip = transformers.CLIPModel(config).eval()
    clip.save_pretrained(tmp_path / "clip")
    ours = ClipCap.from_original(checkpoint(SHAPES[0])[0], TOLD).with_image_side(tmp_path / "clip")
    pixels = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    states = clip.vision_model(pixel_values=pixels).pooler_output
    torch.testing.assert_close(ours.encode_image(pixels), clip.visual_projection(states), atol=1e-5, rtol=0)
    greedy = Greedy(max_length=9, min_length=0)
    assert torch.equal(
        ours.generate(pixels, None, greedy).ids_BnL, ours.generate(ours.encode_image(pixels), None, greedy).ids_BnL
    )


@pytest.mark.parametrize("size", [(50, 31), (33, 64), (32, 32), (47, 47)])
def test_pictures_are_cut_as_clip_cuts_them(size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    processor = transformers.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    expected = processor(image, do_rescale=False, do_normalize=False, return_tensors="np")["pixel_values"][0]
    found = np.asarray(centre_square(image, 32)).transpose(2, 0, 1)
    assert np.abs(found.astype(int) - np.asarray(expected).astype(int)).max() <= 1
