"""What turns pictures into the embeddings that a ClipCap starts from: CLIP of transformers, or the image side of a MED.

Frozen in every training; knows nothing of texts. transformers is imported where it is used.

Axes at the end of tensor names: B images, E image embedding, C channels, H and W pixels.
"""

from pathlib import Path
from typing import Any, assert_never

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from capfilt.config.architectures.clipcap import ClipImage, ImageConfig, MedImage
from capfilt.errors import CheckpointError
from capfilt.modeling.med.network import MED
from capfilt.modeling.published import ACTIVATIONS
from capfilt.modeling.transformers_files import CONFIG, read_json
from capfilt.modeling.vision import VisionTransformer

_THEIR_ACTIVATION = {ours: theirs for theirs, ours in reversed(list(ACTIVATIONS.items()))}


class ClipEmbedder(nn.Module):
    """transformers' CLIPVisionModelWithProjection."""

    def __init__(self, config: ClipImage, embed_dim: int) -> None:
        from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

        super().__init__()
        self.network = CLIPVisionModelWithProjection(
            CLIPVisionConfig(
                hidden_size=config.width,
                intermediate_size=config.intermediate,
                projection_dim=embed_dim,
                num_hidden_layers=config.layers,
                num_attention_heads=config.heads,
                image_size=config.size,
                patch_size=config.patch,
                hidden_act=_THEIR_ACTIVATION[config.activation],
                layer_norm_eps=config.norm_eps,
            )
        )

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        """[B, E], not normalised: what CLIP's `encode_image` gives."""
        embed_BE: Tensor = self.network(pixel_values=pixels_BCHW).image_embeds
        return embed_BE


class MedEmbedder(nn.Module):
    """A MED's image features, as its filter writes them."""

    def __init__(self, config: MedImage, embed_dim: int) -> None:
        super().__init__()
        self.vision = VisionTransformer(config)
        self.image_projection = nn.Linear(config.width, embed_dim)

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        """[B, E], unit norm."""
        return F.normalize(self.image_projection(self.vision(pixels_BCHW, first_only=True)[:, 0]), dim=-1)


def build_embedder(config: ImageConfig, embed_dim: int) -> ClipEmbedder | MedEmbedder:
    match config:
        case ClipImage():
            return ClipEmbedder(config, embed_dim)
        case MedImage():
            return MedEmbedder(config, embed_dim)
        case _:
            assert_never(config)


def load_embedder(source: str | Path) -> tuple[ClipEmbedder | MedEmbedder, ImageConfig, int, dict[str, Any]]:
    """A CLIP of transformers (folder or hub name) or a MED with ITC (our folder, or whatever `load_network` takes).

    Returns the network, its section, the embedding's width, and `image_mean` and `image_std` where the source says them.

    Raises:
        CheckpointError: If it is neither.
    """
    from capfilt.modeling.families import load_network
    from capfilt.modeling.find import find_checkpoint

    path = find_checkpoint(source)
    if _is_clip(path):
        return _load_clip(path, source)
    model = load_network(path).model
    if not isinstance(model, MED) or "filter" not in model.config.roles:
        raise CheckpointError(f"{source}: expected a CLIP, or a MED with ITC features, found neither. Name another model")
    architecture = model.config
    section = MedImage(kind="med", **architecture.image.model_dump())
    embedder = MedEmbedder(section, architecture.embed_dim)
    embedder.vision, embedder.image_projection = model.vision, model.image_projection
    told = {"image_mean": architecture.image_mean, "image_std": architecture.image_std}
    return embedder.eval(), section, architecture.embed_dim, told


def _is_clip(path: Path) -> bool:
    return (path / CONFIG).is_file() and str(read_json(path / CONFIG).get("model_type")).startswith("clip")


def _load_clip(path: Path, source: str | Path) -> tuple[ClipEmbedder, ClipImage, int, dict[str, Any]]:
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    try:
        settings = CLIPVisionConfig.from_pretrained(path)
        # A whole CLIP says it once for both sides; its vision section may keep a default.
        settings.projection_dim = read_json(path / CONFIG).get("projection_dim", settings.projection_dim)
        network = CLIPVisionModelWithProjection.from_pretrained(path, config=settings).float()
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{source}: expected the weights of a CLIP, found {reason}. Copy the folder again") from None
    theirs = network.config
    if theirs.hidden_act not in ACTIVATIONS:
        raise CheckpointError(f"{source}: expected a CLIP with {', '.join(ACTIVATIONS)}, found {theirs.hidden_act}; name another")
    section = ClipImage.model_validate(
        {
            "kind": "clip",
            "size": theirs.image_size,
            "patch": theirs.patch_size,
            "width": theirs.hidden_size,
            "layers": theirs.num_hidden_layers,
            "heads": theirs.num_attention_heads,
            "intermediate": theirs.intermediate_size,
            "activation": ACTIVATIONS[theirs.hidden_act],
            "norm_eps": theirs.layer_norm_eps,
        }
    )
    with torch.random.fork_rng(devices=[]):
        embedder = ClipEmbedder(section, theirs.projection_dim)
    embedder.network = network
    return embedder.eval(), section, int(theirs.projection_dim), {}


def centre_square(image: Image.Image, size: int) -> Image.Image:
    """As CLIP prepares pictures: the shorter side resized to `size` (bicubic), the middle cut out. `to_uint8` leaves it so."""
    image = image.convert("RGB")
    short = min(image.size)
    width, height = (size if side == short else int(size * side / short) for side in image.size)
    left, top = (width - size) // 2, (height - size) // 2
    return image.resize((width, height), Image.Resampling.BICUBIC).crop((left, top, left + size, top + size))
