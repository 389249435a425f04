"""Tiny random BLIPs of transformers, and their weights under the names of the original code, written out once more here."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

transformers = pytest.importorskip("transformers")

PAD, CLS, SEP, DEC, ENC, VOCABULARY = 0, 1, 2, 58, 59, 60
TOKENS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]", *(f"w{i}" for i in range(53))]
Shape = tuple[int, int, int]
RENAMED = [  # transformers' names -> the original code's
    (r"^vision_model\.embeddings\.class_embedding", "visual_encoder.cls_token"),
    (r"^vision_model\.embeddings\.position_embedding", "visual_encoder.pos_embed"),
    (r"^vision_model\.embeddings\.patch_embedding", "visual_encoder.patch_embed.proj"),
    (r"^vision_model\.encoder\.layers", "visual_encoder.blocks"),
    (r"^vision_model\.post_layernorm", "visual_encoder.norm"),
    (r"\.self_attn\.qkv", ".attn.qkv"),
    (r"\.self_attn\.projection", ".attn.proj"),
    (r"\.layer_norm([12])", r".norm\1"),
]


def renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    found = {}
    for name, tensor in state.items():
        for theirs, original in RENAMED:
            name = re.sub(theirs, original, name)
        found[name] = tensor.detach().clone()
    return found


class Blip:
    """What the tests of this room share."""

    settings = {"image": {"heads": 2}, "text": {"heads": 4, "cls_id": CLS, "sep_id": SEP}}
    """What shapes do not say."""
    token = {"pad": PAD, "cls": CLS, "sep": SEP, "dec": DEC, "enc": ENC}

    def config(self, shape: Shape, **changes: Any) -> Any:
        image_layers, text_layers, size = shape
        text = {
            "vocab_size": VOCABULARY, "hidden_size": 32, "encoder_hidden_size": 24, "intermediate_size": 48,
            "num_hidden_layers": text_layers, "num_attention_heads": 4, "max_position_embeddings": 32, "projection_dim": 16,
            "bos_token_id": DEC, "sep_token_id": SEP, "pad_token_id": PAD, "eos_token_id": SEP,
        }  # fmt: skip
        image = {
            "hidden_size": 24, "intermediate_size": 96, "num_hidden_layers": image_layers, "num_attention_heads": 2,
            "image_size": size, "patch_size": 8, "layer_norm_eps": 1e-6, "projection_dim": 16,
        }  # fmt: skip
        return transformers.BlipConfig(
            text_config=text | changes.pop("text", {}),
            vision_config=image | changes.pop("image", {}),
            image_text_hidden_size=16,
            projection_dim=16,
            **changes,
        )

    def make(self, role: str, shape: Shape, seed: int = 0, std: float = 0.15, **changes: Any) -> Any:
        """Norm weights near one, all else normal: what comes out then depends on what goes in."""
        kind = {"captioner": "BlipForConditionalGeneration", "filter": "BlipForImageTextRetrieval"}[role]
        made = getattr(transformers, kind)(self.config(shape, **changes)).eval()
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in made.named_parameters():
                is_norm_weight = parameter.ndim == 1 and name.endswith("weight")
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * std + (1.0 if is_norm_weight else 0.0))
        return made

    def original(self, *networks: Any) -> dict[str, Tensor]:
        """The original code's state dict of a captioner, a filter, or of both in one: the first gives what they share."""
        found: dict[str, Tensor] = {}
        for network in networks:
            found = renamed(network.state_dict()) | found
        if len(networks) == 2:
            for name in [name for name in found if name.startswith("text_encoder.") and ".attention." not in name]:
                found[name] = found[name.replace("text_encoder.", "text_decoder.bert.")].clone()
        return found | ({"temp": torch.tensor(0.09)} if "itm_head.weight" in found else {})

    def pretraining(self, shape: Shape, queue: int = 6) -> dict[str, Tensor]:
        """The state dict of BLIP_Pretrain: both networks, momentum copies unlike them, a part-filled queue."""
        state = self.original(self.make("captioner", shape, 0), self.make("filter", shape, 1))
        momentum = renamed(self.make("filter", shape, 2).state_dict())
        for name, tensor in momentum.items():
            root, rest = name.split(".", 1)
            if root != "itm_head":
                state[f"{root}_m.{rest}"] = tensor
        generator = torch.Generator().manual_seed(5)
        for name in ("image_queue", "text_queue"):
            state[name] = torch.nn.functional.normalize(torch.randn(16, queue, generator=generator), dim=0)
        return state | {"queue_ptr": torch.tensor([2])}

    def save(self, network: Any, folder: Path) -> Path:
        """As transformers saves it, with a vocabulary and no image processor."""
        network.save_pretrained(folder)
        (folder / "vocab.txt").write_text("\n".join(TOKENS))
        return folder

    def inputs(
        self, batch: int, length: int, size: int, first: int = CLS, *, padded: bool = True
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Pixels, ids and mask."""
        generator = torch.Generator().manual_seed(batch * 100 + length)
        pixels = torch.randn(batch, 3, size, size, generator=generator)
        ids = torch.randint(5, DEC, (batch, length), generator=generator)
        ids[:, 0] = first
        lengths = torch.randint(3, length + 1, (batch,), generator=generator) if padded else torch.full((batch,), length)
        lengths[0] = length
        ids[torch.arange(batch), lengths - 1] = SEP
        mask = (torch.arange(length)[None] < lengths[:, None]).long()
        return pixels, ids * mask, mask


@pytest.fixture(scope="session")
def blip() -> Blip:
    return Blip()
