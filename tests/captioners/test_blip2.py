"""What a BLIP-2 alone owes: see test_protocol.py for the rest."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL.Image import Image

from capfilt.captioners import captioner_of
from capfilt.captioners.blip2 import Blip2Captioner
from capfilt.config.decoding import Greedy
from capfilt.errors import CheckpointError
from capfilt.modeling.blip2.language import FrozenLanguage
from capfilt.modeling.blip2.network import Blip2
from capfilt.modeling.build import build
from capfilt.modeling.families import Loaded, load_network
from capfilt.modeling.inference import Inference
from capfilt.modeling.preprocess import preprocess

transformers = pytest.importorskip("transformers")
Paint = Callable[[int], Image]
DECODE = Greedy(min_length=6, max_length=8)


def at_work(loaded: Loaded) -> Inference:
    return Inference("blip2", loaded, batch_size=4, dtype="float32", device="cpu")


def without_role(folder: Path) -> Loaded:
    trained = load_network(folder)
    architecture = trained.architecture.model_copy(update={"roles": ()})
    return Loaded(build(architecture), architecture, trained.tokenizer)


def test_stage_1_needs_weights_that_write(tiny_folder: Callable[[str], Path]) -> None:
    with pytest.raises(CheckpointError, match="expected a text decoder to write captions, found a filter only"):
        captioner_of(at_work(without_role(tiny_folder("blip2"))), prompt="", decode=DECODE)


@pytest.mark.parametrize(("kind", "in_front"), [("GPT2LMHeadModel", 2), ("T5ForConditionalGeneration", 1)])
def test_stage_2_writes_whatever_the_q_former_can_and_leaves_out_what_stands_before_the_caption(
    kind: str, in_front: int, tiny_folder: Callable[[str], Path], paint: Paint
) -> None:
    stage_1 = without_role(tiny_folder("blip2"))
    network = at_work(Loaded(stage_2(stage_1, kind), stage_1.architecture, stage_1.tokenizer))
    captioner = captioner_of(network, prompt="small", decode=DECODE)
    assert isinstance(captioner, Blip2Captioner)
    prompt_P = torch.from_numpy(stage_1.tokenizer.encode_prompt("small"))
    assert len(prompt_P) == 2
    pixels = preprocess([paint(0)] * 4, stage_1.architecture)
    ids = network.model.generate(network.model.encode_image(pixels), prompt_P, DECODE).ids_BnL[0, 0]
    assert captioner.caption([paint(0)], seeds=[[1]])[0][0].text == stage_1.tokenizer.decode(ids[in_front:].tolist())


def stage_2(stage_1: Loaded, kind: str) -> Blip2:
    ids = {"vocab_size": len(stage_1.tokenizer), "eos_token_id": 3, "pad_token_id": 0}
    sizes: dict[str, Any] = {
        "GPT2LMHeadModel": {"n_positions": 40, "n_embd": 16, "n_layer": 1, "n_head": 2, "bos_token_id": 2},
        "T5ForConditionalGeneration": {
            "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2, "decoder_start_token_id": 0,
        },
    }[kind]  # fmt: skip
    made = getattr(transformers, kind)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Blip2(stage_1.model, FrozenLanguage(made(made.config_class(**ids, **sizes)))).eval()
