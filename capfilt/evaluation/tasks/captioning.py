"""Task `captioning`: CIDEr-D of generated texts.

The score is `evaluation.captioning`'s; chance, where there is any, belongs to the row.
"""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from capfilt.config.downstream import CaptioningTask
from capfilt.errors import InputError
from capfilt.evaluation.captioning import cider_d
from capfilt.evaluation.tasks.able import check_family, columns_of
from capfilt.evaluation.tasks.base import Asked, Int64Array, Measured
from capfilt.evaluation.tasks.data import Rows, read_task
from capfilt.identity import row_seed

EXAMPLES = 8


def captioning(task: CaptioningTask, asked: Asked) -> Measured:
    """CIDEr-D; the prompt's words are no part of the texts.

    Raises:
        ConfigError: If the network writes no text, or not of what is given.
        InputError: If stored embeddings are not as wide as the network takes them.
    """
    check_family(task, asked.loaded)
    rows = read_task(task.data, tuple(columns_of(task)))
    tokenizer: Any = asked.loaded.tokenizer
    prompt_P = torch.from_numpy(tokenizer.encode_prompt(task.prompt)).to(asked.device)
    # Tokens before what is new; an encoder-decoder's prompt is none of them.
    written_from: Callable[[Tensor], int] = getattr(asked.model, "written_from", len)
    first_new = written_from(prompt_P)
    texts: list[str] = []
    with torch.inference_mode(), ExitStack() as stack:
        embeds = _embeddings(task, asked, rows) if task.embedding is not None else _pictures(task, asked, rows, stack)
        for rows_B in asked.parts(len(rows)):
            seeds = [[row_seed(asked.seed, 0, "evaluate", task.label, str(i), 0)] for i in rows_B]
            made = asked.model.generate(embeds(rows_B), prompt_P, task.decode, seeds=seeds)
            texts += [tokenizer.decode(ids) for ids in made.ids_BnL[:, 0, first_new:].tolist()]
    references = [[str(text) for text in row["captions"]] for row in rows]
    examples = [{"caption": text, "references": own} for text, own in zip(texts[:EXAMPLES], references, strict=False)]
    return {"n": len(rows), "cider_d": asked.mean(cider_d(texts, references)), "examples": examples}


def _pictures(task: CaptioningTask, asked: Asked, rows: Rows, stack: ExitStack) -> Callable[[Int64Array], Tensor]:
    shown = asked.show([[row["image"]] for row in rows], "pictures", task.data)
    stack.callback(shown.close)

    def encoded(rows_B: Int64Array) -> Tensor:
        found: Tensor = asked.model.encode_image(asked.normalised(shown.take(rows_B)[:, 0]))
        return found

    return encoded


def _embeddings(task: CaptioningTask, asked: Asked, rows: Rows) -> Callable[[Int64Array], Tensor]:
    assert task.embedding is not None
    wanted = int(asked.model.config.embed_dim)
    vectors = [row[task.embedding] for row in rows]
    wrong = next((number for number, vector in enumerate(vectors) if len(vector) != wanted), None)
    if wrong is not None:
        raise InputError(
            f"{task.data}: expected embeddings of width {wanted} in column {task.embedding}, found {len(vectors[wrong])} in row "
            f"{wrong}; take those of the model that the ClipCap was trained on"
        )
    embed_NE = torch.tensor(vectors, dtype=torch.float32, device=asked.device)
    return lambda rows_B: embed_NE[torch.from_numpy(rows_B).to(asked.device)]
