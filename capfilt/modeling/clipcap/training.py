"""What a ClipCap learns from: texts behind the prefix, from pictures or from stored embeddings (ClipCap section 3).

Answers `losses(batch)` by name; knows nothing of optimisers, schedules or data.
"""

from collections.abc import Mapping

from torch import Tensor, nn

from capfilt.modeling.batch import Batch
from capfilt.modeling.clipcap.batch import EmbeddedBatch
from capfilt.modeling.clipcap.network import ClipCap


class ClipCapTraining(nn.Module):
    """Only what `config.learns` names is a part of this module. So the rest enters no optimiser and no checkpoint, keeps its
    bits and stays in evaluation mode, as in the published `ClipCaptionPrefix`."""

    def __init__(self, model: ClipCap, *, prompt_length: int = 0) -> None:
        """`prompt_length`: tokens at the head of every text that are the prompt: seen, not learnt."""
        super().__init__()
        self._model = [model.eval()]  # a list, so that frozen parts are not taken for parts of this module
        self.prompt_length = prompt_length
        model.requires_grad_(False)
        self.mapper = model.mapper.requires_grad_(True)
        if model.config.learns == "mapper_and_text":
            self.text = model.text.requires_grad_(True)

    @property
    def model(self) -> ClipCap:
        return self._model[0]

    def set_progress(self, step: int, steps_per_ramp: int) -> None:
        """Nothing ramps here."""

    def losses(self, batch: Batch | EmbeddedBatch | Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self.model.losses(batch, prompt_length=self.prompt_length)
