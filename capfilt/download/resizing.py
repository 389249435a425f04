"""img2dataset's Resizer and Blurrer, given pictures that capfilt/images decoded: bytes to a resized JPEG, boxes blurred.

Knows nothing of downloads. Their resize, JPEG encoding and masks run unchanged; in the place of its own names their code sees:

    cv2.imdecode                what capfilt/images decoded: upright, three channels. No stranger's bytes reach OpenCV, whose JPEG
                                decoder writes to the terminal and has shown one picture's remains in the next (opencv #26488)
    SuppressStdoutStderr        nothing: it exchanges the process's file descriptors, which two chunks at once would lose for ever
    A.SmallestMaxSize           the same transform, made once for a chunk: making one takes longer than resizing a small picture
    A.GaussianBlur              one of the strength that the Blurrer computes. It passes on the size of the kernel only, for which
                                albumentations takes a third of it: a face of 100 pixels stays a face

`seeing` makes the copies, so that img2dataset itself stays as it was for anybody else here.
"""

import contextlib
import functools
import io
import os
from collections.abc import Callable
from types import FunctionType, SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from capfilt import images
from capfilt.download import img2dataset_parts
from capfilt.download.boxes import Boxes

Resized = tuple[bytes | None, int | None, int | None, int | None, int | None, str | None]
"""img2dataset's resizer protocol: JPEG, width, height, original width and height (upright), error."""


class PictureResizer:
    """Settings shared by all chunks; `for_chunk` gives what one chunk's thread calls.

    Args:
        image_px: Shorter side of a bigger picture afterwards; smaller ones are never enlarged.
        jpeg_quality: Of the re-encoded picture.
        max_pixels: Of the picture as served, judged by its container.
    """

    def __init__(self, *, image_px: int, jpeg_quality: int, max_pixels: int) -> None:
        # A second and 100 MB, so only here; without the variable albumentations asks the network for its newest version.
        os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
        import albumentations
        import cv2

        BoundingBoxBlurrer = img2dataset_parts.load("blurrer").BoundingBoxBlurrer
        Resizer = img2dataset_parts.load("resizer").Resizer
        self._cv2 = cv2
        self._albumentations = albumentations
        self._limits: dict[str, int] = {"max_pixels": max_pixels, "shorter_side": image_px}
        self._resizer_call: Any = Resizer.__call__
        blur = seeing(BoundingBoxBlurrer.__call__, A=SimpleNamespace(GaussianBlur=functools.partial(_GaussianBlur, cv2)))
        self._resizer = Resizer(
            image_size=image_px,
            resize_mode="keep_ratio",
            resize_only_if_bigger=True,
            encode_quality=jpeg_quality,
            encode_format="jpg",
            blurrer=functools.partial(blur, BoundingBoxBlurrer()),
        )

    def for_chunk(self) -> Callable[[io.BytesIO, Boxes | None], Resized]:
        """For one thread: a transform keeps what it did last."""
        decoded = _Decoded(self._cv2)
        made_once = SimpleNamespace(SmallestMaxSize=functools.cache(self._albumentations.SmallestMaxSize))
        resize = seeing(self._resizer_call, SuppressStdoutStderr=contextlib.nullcontext, cv2=decoded, A=made_once)

        def resized(stream: io.BytesIO, boxes: Boxes | None = None) -> Resized:
            try:
                decoded.bgr, size = self._decoded(stream.getvalue())
            except images.ImageError as problem:
                return None, None, None, None, None, str(problem)
            image, width, height, _, _, error = resize(self._resizer, io.BytesIO(b"decoded already"), boxes)
            return image, width, height, *size, "resize_failed" if error is not None else None

        return resized

    def _decoded(self, data: bytes) -> tuple[np.ndarray[Any, Any], tuple[int, int]]:
        """Pixels in OpenCV's order; width and height of the full picture, upright."""
        bgr = images.decode_plain_jpeg(data, **self._limits)
        if bgr is not None:
            return bgr, (bgr.shape[1], bgr.shape[0])
        picture = images.decode(data, **self._limits)
        return self._cv2.cvtColor(*self._pixels(picture.image)), (picture.width, picture.height)

    def _pixels(self, image: Image.Image) -> tuple[np.ndarray[Any, Any], int]:
        """Pixels [H, W, 3 or 4] of an RGB picture and the way from there to OpenCV's order; where it can be, without copying."""
        try:
            flat = pa.array(image).values.to_numpy()  # Pillow's own memory: RGB in four bytes
        except (pa.ArrowException, ValueError, TypeError):  # bigger than one block of it, or a Pillow without Arrow
            return np.asarray(image), self._cv2.COLOR_RGB2BGR
        return flat.reshape(image.height, image.width, 4), self._cv2.COLOR_RGBA2BGR


class _Decoded:
    """OpenCV for the Resizer of one chunk, whose `imdecode` gives the picture that is decoded already."""

    def __init__(self, cv2: Any) -> None:
        self._cv2 = cv2
        self.bgr: np.ndarray[Any, Any] | None = None

    def imdecode(self, *_: Any) -> np.ndarray[Any, Any] | None:
        bgr, self.bgr = self.bgr, None
        return bgr

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cv2, name)


class _GaussianBlur:
    """A blur whose kernel has the given width: sigma as the Blurrer, after ImageNet's face obfuscation, computed it."""

    def __init__(self, cv2: Any, blur_limit: tuple[int, int], **_: Any) -> None:
        self._cv2 = cv2
        self._sigma = (blur_limit[0] - 1) / 2

    def __call__(self, image: np.ndarray[Any, Any]) -> dict[str, Any]:
        return {"image": self._cv2.GaussianBlur(image, (0, 0), self._sigma)}


def seeing(function: Any, **names: Any) -> Any:
    """A copy of `function` whose module-level `names` are these.

    Unlike patching the module, it changes nothing for others, and the names may belong to one call.
    """
    for name in names:
        if name not in function.__globals__:
            raise AttributeError(
                f"expected img2dataset's {function.__qualname__} to use `{name}`, found no such name; install img2dataset 1.47"
            )
    scope = {**function.__globals__, **names}
    return FunctionType(function.__code__, scope, function.__name__, function.__defaults__, function.__closure__)
