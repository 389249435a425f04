"""CoCa as a captioner: the multimodal half of its decoder writes texts (CoCa section 3.2)."""

from capfilt.captioners.network import NetworkCaptioner


class CocaCaptioner(NetworkCaptioner):
    """The unimodal layers read start token and prompt, the multimodal ones look at the captioning pooler's queries too.

    Every CoCa can.
    """
