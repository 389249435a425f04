"""One trained network in the hand: caption pictures, match texts with them, embed both.

The Python side of `capfilt caption`; a pipeline uses captioners and filters through its stages instead.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from PIL.Image import Image

from capfilt.captioners import captioner_of
from capfilt.config.architectures import Architecture, load_architecture
from capfilt.config.decoding import Beam, Decoding
from capfilt.config.find import find_yaml
from capfilt.errors import CheckpointError, ConfigError
from capfilt.filters import filter_of
from capfilt.filters.base import Float32Array
from capfilt.filters.network import NetworkFilter
from capfilt.identity import row_seed
from capfilt.images import as_rgb
from capfilt.modeling.build import Network, build
from capfilt.modeling.families import Loaded, tokenizer_in
from capfilt.modeling.find import is_checkpoint_name
from capfilt.modeling.inference import Inference
from capfilt.modeling.tokenizer import Tokenizer


class Model:
    """A network of any family with its tokenizer and preprocessing. Pictures are PIL images of any size, in a list.

    What the weights cannot do raises a CheckpointError that says so:

        MED        captions, matches, embeds; a published fine-tune has one role, captioner or filter
        CoCa       captions, matches by its cosine, embeds
        BLIP-2     stage 1 captions, matches, embeds (transformers' retrieval folders do not caption); stage 2 captions
        ClipCap    captions
        SOHO       matches, embeds pictures
    """

    def __init__(self, network: Inference) -> None:
        self._network = network

    @cached_property
    def _filter(self) -> NetworkFilter:
        return filter_of(self._network)

    @property
    def architecture(self) -> Architecture:
        return self._network.architecture

    def caption(
        self, images: Sequence[Image], *, prompt: str = "a picture of ", decode: Decoding | None = None, seed: int = 0
    ) -> list[str]:
        """One text per picture, the prompt left out. Beam search with 3 beams unless `decode` says otherwise.

        `seed` starts the random stream of nucleus sampling; picture i takes its i-th.
        """
        images = _rgb(images)
        longest = self.architecture.max_text_length
        decode = decode or Beam(beams=3, min_length=5, max_length=min(24, longest))
        captioner = captioner_of(self._network, prompt=prompt, decode=decode)
        seeds = [[row_seed(seed, 0, "caption", captioner.name, str(i), 0)] for i in range(len(images))]
        return [texts[0].text for texts in captioner.caption(images, seeds=seeds)]

    def match(self, images: Sequence[Image], texts: Sequence[str]) -> Float32Array:
        """How well each text describes its picture, float32 [n]; pairs are taken by position.

        The probability of the two-way ITM softmax (BLIP section 3.1), 0 to 1; of a CoCa, which has no ITM, the cosine, -1 to 1.

        Raises:
            ValueError: If the two sequences differ in length.
        """
        images = _rgb(images)
        if len(images) != len(texts):
            raise ValueError(f"expected as many texts as pictures, found {len(texts)} and {len(images)}; pair them by position")
        scores = self._filter.score(images, [[text] for text in texts])
        found = scores.itc if scores.itm is None else scores.itm
        assert found is not None
        return np.asarray([own[0] for own in found], dtype=np.float32)

    def embed_images(self, images: Sequence[Image]) -> Float32Array:
        """Unit-norm features [n, dim]; their product with those of texts is the ITC cosine.

        Of a BLIP-2 the mean of its queries' features: ITC takes the best query instead. Of a SOHO the mean visual feature.
        """
        return self._filter.embed_images(_rgb(images))

    def embed_texts(self, texts: Sequence[str]) -> Float32Array:
        """Unit-norm features [n, dim]."""
        return self._filter.embed_texts(texts)


def _rgb(images: Sequence[Image]) -> list[Image]:
    """Pictures in another mode become RGB as in a pipeline: what is transparent is white. EXIF's turn is the caller's to make.

    Raises:
        TypeError: If it is no list of pictures.
    """
    if isinstance(images, Image | str | Path) or not all(isinstance(image, Image) for image in images):
        found = type(images).__name__ if isinstance(images, Image | str | Path) else "something else in it"
        raise TypeError(f"images: expected a list of PIL pictures, found {found}. Open files with PIL.Image.open")
    return [as_rgb(image) for image in images]


def load_model(
    source: str | Path | Architecture,
    *,
    device: str = "cpu",
    dtype: Literal["float32", "bfloat16"] = "float32",
    batch_size: int = 16,
    vocabulary: str | Path | None = None,
    seed: int = 0,
) -> Model:
    """A model from a checkpoint, or a fresh one with random weights from an architecture.

    Args:
        source: A model folder of ours; a published checkpoint of BLIP, BLIP-2, CoCa, ClipCap or SOHO: a folder of transformers
            or open_clip, a file of the authors' (`modeling/others.py` says what lies beside it), a hub name such as
            Salesforce/blip-image-captioning-base (from the hub's cache, or over the network); or an architecture (typed, or the
            name or path of a YAML in models/).
        vocabulary: WordPiece file, one token a line; needed for an architecture or a file of BLIP, LAVIS or SOHO, which bring
            none (`vocab.txt` beside the file is found). For CLIP's or GPT-2's tokens, a folder with that tokenizer.
        seed: Of fresh weights.

    Raises:
        CheckpointError: If there is no such model, or its weights do not fit.
        ConfigError: If an architecture comes without a vocabulary, or a GPU is asked for where there is none.
    """
    if isinstance(source, str | Path) and is_checkpoint_name(source):
        return Model(Inference.load(str(source), batch_size=batch_size, dtype=dtype, device=device, vocabulary=vocabulary))
    return Model(Inference("fresh", _fresh(source, vocabulary, seed), batch_size=batch_size, dtype=dtype, device=device))


def _fresh(source: str | Path | Architecture, vocabulary: str | Path | None, seed: int) -> Loaded:
    if isinstance(source, str | Path):
        try:
            source = load_architecture(find_yaml(str(source), "models"))
        except ConfigError as error:
            raise CheckpointError(
                f"{source}: expected a model folder or the name of an architecture, found neither. {error}"
            ) from None
    if vocabulary is None:
        raise ConfigError("load_model: an architecture has no tokenizer; expected `vocabulary`, a WordPiece file, found none")
    network: Network = build(source, seed=seed)
    folder = Path(vocabulary)
    tokenizer = tokenizer_in(folder, source, network) if folder.is_dir() else Tokenizer.from_vocab(vocabulary)
    return Loaded(network, source, tokenizer)
