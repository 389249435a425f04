"""Cross-attention's keys and values."""

import torch

from capfilt.modeling.layers import CrossAttention


def test_keys_and_values_are_written_into_given_memory():
    attention, image = CrossAttention(16, 24, 4).double(), torch.randn(3, 5, 24, dtype=torch.float64)
    memory = torch.zeros(3, 5, 32, dtype=torch.float64)

    written = attention.keys_values(image, memory)

    for mine, expected in zip(written, attention.keys_values(image), strict=True):
        assert torch.allclose(mine, expected, atol=1e-12)
        assert mine.untyped_storage().data_ptr() == memory.untyped_storage().data_ptr()
