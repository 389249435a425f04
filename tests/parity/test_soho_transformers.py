"""SOHO's trunk and transformer against transformers' ResNet and BERT."""

import re

import pytest
import torch
from torch import Tensor

from capfilt.config.architectures.soho import ResNetConfig, SohoArchitecture
from capfilt.errors import CheckpointError
from capfilt.modeling.soho import SOHO
from capfilt.modeling.soho.resnet import ResNet

transformers = pytest.importorskip("transformers")

CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def randomise(network: torch.nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if not tensor.is_floating_point():
                continue
            noise = torch.randn(tensor.shape, generator=generator)
            if tensor.ndim == 4:
                tensor.copy_(noise / tensor[0].numel() ** 0.5)
            elif name.endswith("running_var") or (tensor.ndim == 1 and name.endswith("weight")):
                tensor.copy_(1 + 0.2 * noise.abs())
            else:
                tensor.copy_(0.15 * noise)


def torchvision_named(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """transformers' ResNetModel under torchvision's names."""
    found = {}
    for name, tensor in state.items():
        name = name.replace("embedder.embedder.convolution", "conv1").replace("embedder.embedder.normalization", "bn1")
        name = re.sub(r"encoder\.stages\.(\d)\.layers\.", lambda m: f"layer{int(m[1]) + 1}.", name)
        name = re.sub(r"layer\.(\d)\.convolution", lambda m: f"conv{int(m[1]) + 1}", name)
        name = re.sub(r"layer\.(\d)\.normalization", lambda m: f"bn{int(m[1]) + 1}", name)
        name = name.replace("shortcut.convolution", "downsample.0").replace("shortcut.normalization", "downsample.1")
        found[name] = tensor.clone()
    return found


@pytest.mark.parametrize(("block", "depths"), [("basic", (2, 1, 2, 1)), ("bottleneck", (1, 2, 1, 2))])
@pytest.mark.parametrize("size", [64, 96])
def test_the_trunk_is_transformers_resnet(block: str, depths: tuple[int, ...], size: int) -> None:
    wide = 4 if block == "bottleneck" else 1
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8 * wide, 16 * wide, 32 * wide, 64 * wide], depths=list(depths), layer_type=block
    )
    theirs = transformers.ResNetModel(config).eval()
    randomise(theirs, 0)
    architecture = SohoArchitecture.model_validate(
        {
            "kind": "soho",
            "image": {"size": 64, "block": block, "blocks": depths, "width": 8},
            "text": {"vocabulary": "trained", "vocab_size": 9, "width": 8, "layers": 1, "heads": 1, "intermediate": 8},
        }
    )
    model = SOHO(architecture).eval()
    state = torchvision_named(theirs.state_dict())
    model.load_trunk(state | {"fc.weight": torch.zeros(1000, 64), "fc.bias": torch.zeros(1000)})
    pixels = torch.randn(2, 3, size, size)
    with torch.inference_mode():
        torch.testing.assert_close(model.trunk(pixels), theirs(pixels).last_hidden_state, **CLOSE)
    del state["layer4.0.conv1.weight"]
    with pytest.raises(CheckpointError, match=r"a ResNet of this size, found\n  missing layer4\.0\.conv1\.weight"):
        model.load_trunk(state)


@pytest.mark.parametrize(("batch", "length", "picture"), [(1, 3, 4), (3, 7, 9)])
def test_the_cross_modal_transformer_is_a_bert_over_both(batch: int, length: int, picture: int) -> None:
    config = transformers.BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=32,
        max_position_embeddings=20, attn_implementation="eager",
    )  # fmt: skip
    theirs = transformers.BertModel(config, add_pooling_layer=False).eval()
    randomise(theirs, 1)
    architecture = SohoArchitecture.model_validate(
        {
            "kind": "soho",
            "image": {"size": 16, "stem": "small", "blocks": [1], "width": 8},
            "text": {
                "vocabulary": "trained", "vocab_size": 40, "width": 16, "layers": 2, "heads": 4, "intermediate": 32,
                "max_positions": 20,
            },
            "max_text_length": 20,
        }
    )  # fmt: skip
    ours = SOHO(architecture).eval().transformer
    state = theirs.state_dict()
    with torch.no_grad():
        for i in range(2):
            at, layer = f"encoder.layer.{i}", ours.layers[i]
            for kind in ("weight", "bias"):
                qkv = torch.cat([state[f"{at}.attention.self.{name}.{kind}"] for name in ("query", "key", "value")])
                getattr(layer.self_block.attention.qkv, kind).copy_(qkv)
                getattr(layer.self_block.attention.out, kind).copy_(state[f"{at}.attention.output.dense.{kind}"])
                getattr(layer.self_block.norm, kind).copy_(state[f"{at}.attention.output.LayerNorm.{kind}"])
                getattr(layer.feed_forward.mlp.up, kind).copy_(state[f"{at}.intermediate.dense.{kind}"])
                getattr(layer.feed_forward.mlp.down, kind).copy_(state[f"{at}.output.dense.{kind}"])
                getattr(layer.feed_forward.norm, kind).copy_(state[f"{at}.output.LayerNorm.{kind}"])
        for name, theirs_name in (("words", "word"), ("positions", "position"), ("types", "token_type")):
            getattr(ours.embeddings, name).weight.copy_(state[f"embeddings.{theirs_name}_embeddings.weight"])
        for kind in ("weight", "bias"):
            getattr(ours.embeddings.norm, kind).copy_(state[f"embeddings.LayerNorm.{kind}"])
    ids = torch.randint(5, 40, (batch, length))
    mask = (torch.arange(length)[None] < torch.randint(2, length + 1, (batch, 1))).long()
    tokens, visible = torch.randn(batch, picture, 16), torch.ones(batch, picture, dtype=torch.int64)
    visible[:, -1] = 0
    with torch.inference_mode():
        joint = torch.cat([theirs.embeddings(ids), tokens], dim=1)
        bias = (1 - torch.cat([mask, visible], dim=1).float())[:, None, None] * -10_000.0
        expected = theirs.encoder(joint, attention_mask=bias).last_hidden_state
        torch.testing.assert_close(ours(ids, mask, tokens, visible), expected, **CLOSE)


def test_imagenet_names_need_no_counter() -> None:
    trunk = ResNet(ResNetConfig(size=32, stem="small", blocks=(1, 1), width=8))
    architecture = SohoArchitecture.model_validate(
        {
            "kind": "soho",
            "image": trunk.config.model_dump(),
            "text": {"vocabulary": "trained", "vocab_size": 9, "width": 8, "layers": 1, "heads": 1, "intermediate": 8},
        }
    )
    model = SOHO(architecture)
    model.load_trunk({name: x for name, x in trunk.state_dict().items() if not name.endswith("num_batches_tracked")})
    assert torch.equal(model.trunk.conv1.weight, trunk.conv1.weight)
