"""Task `captioning`: CIDEr-D of generated texts.

The score is `evaluation.captioning`'s; chance, where there is any, belongs to the row.
"""

from typing import Any

import torch

from capfilt.config.downstream import CaptioningTask
from capfilt.evaluation.captioning import cider_d
from capfilt.evaluation.tasks.base import Asked, Measured, refuse
from capfilt.evaluation.tasks.data import Shown, read_task
from capfilt.identity import row_seed
from capfilt.modeling.blip2.qformer import QFormer
from capfilt.modeling.coca.network import CoCa
from capfilt.modeling.med.network import MED

EXAMPLES = 8


def captioning(task: CaptioningTask, asked: Asked) -> Measured:
    """Raises: ConfigError: If the network writes no text."""
    model: Any = asked.model
    if not isinstance(model, MED | CoCa | QFormer):
        raise refuse(asked, task.label, "a MED, CoCa or BLIP-2 of stage 1")
    rows = read_task(task.data, ("image", "captions"))
    shown = Shown([[row["image"]] for row in rows], asked.size, asked.work / "pictures", task.data)
    tokenizer: Any = asked.loaded.tokenizer
    prompt = torch.from_numpy(tokenizer.encode_prompt(task.prompt)).to(asked.device)
    lead = tokenizer.decode(tokenizer.encode_prompt(task.prompt)[1:])
    texts: list[str] = []
    for rows_B in asked.parts(len(rows)):
        seeds = [[row_seed(asked.seed, 0, "evaluate", task.label, str(i), 0)] for i in rows_B]
        with torch.inference_mode():
            embeds = model.encode_image(asked.normalised(shown.take(rows_B)[:, 0]))
            written = model.generate(embeds, prompt, task.decode, seeds=seeds)
        whole = [tokenizer.decode(ids[1:]) for ids in written.ids_BnL[:, 0].tolist()]
        texts += [text.removeprefix(lead).strip() for text in whole]
    shown.close()
    references = [[str(text) for text in row["captions"]] for row in rows]
    examples = [{"caption": text, "references": own} for text, own in zip(texts[:EXAMPLES], references, strict=False)]
    return {"n": len(rows), "cider_d": asked.mean(cider_d(texts, references)), "examples": examples}
