"""ClipCap as a captioner: GPT-2 goes on from the prefix that the mapper makes of an image embedding (ClipCap section 3)."""

from capfilt.captioners.network import NetworkCaptioner


class ClipCapCaptioner(NetworkCaptioner):
    """The prompt, if any, stands behind the prefix. Needs an image side: one for stored embeddings alone takes no pictures, which
    `Inference` says."""
