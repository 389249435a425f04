import io

import numpy as np
import torch
from PIL import Image

from capfilt.training.pictures import Pictures


def test_pictures_that_do_not_fit_into_memory_give_the_same_pixels(tmp_path, picture):
    encoded = [picture(i) for i in range(4)]
    with (
        Pictures(8, 4, spool=tmp_path / "a") as cached,
        Pictures(8, 4, spool=tmp_path / "deep" / "b", cache_bytes=10) as spooled,
    ):
        names = [str(i) for i in range(4)]
        assert cached.add(encoded, names) == spooled.add(encoded, names) == [0, 1, 2, 3]
        index = np.array([3, 0, 3, 2])
        assert cached.is_cached
        assert not spooled.is_cached
        assert torch.equal(cached.take(index), spooled.take(index))
        assert (cached.image_ids() == spooled.image_ids()).all()
    assert not (tmp_path / "deep" / "b").exists()


def test_pixels_are_the_bicubic_square_of_the_picture(tmp_path, picture):
    with Pictures(8, 1, spool=tmp_path / "a") as pictures:
        pictures.add([picture(7)], ["x"])
        expected = np.asarray(Image.open(io.BytesIO(picture(7))).resize((8, 8), Image.Resampling.BICUBIC))
        assert (pictures.take(np.array([0]))[0].permute(1, 2, 0).numpy() == expected).all()
