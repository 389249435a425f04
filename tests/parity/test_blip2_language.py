"""Stage 2 against transformers' Blip2ForConditionalGeneration with OPT, GPT-2 and T5, tiny random weights; and its folders."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from capfilt.config.decoding import Beam, Greedy, Nucleus
from capfilt.errors import CheckpointError
from capfilt.modeling.batch import Batch
from capfilt.modeling.blip2 import Blip2
from capfilt.modeling.blip2.language import FrozenLanguage
from capfilt.modeling.blip2.names import qformer_names, without_biases
from capfilt.modeling.blip2.qformer import QFormer
from capfilt.modeling.blip2.training import Blip2Training
from capfilt.modeling.blip2.transformers_folder import load_blip2
from capfilt.modeling.published import to_theirs

transformers = pytest.importorskip("transformers")
V, EOS, PAD, BOS, IMAGE, QUERIES, SIZE = 50, 2, 1, 3, 49, 5, 32
LANGUAGES: dict[str, dict[str, Any]] = {
    "opt": {
        "model_type": "opt", "vocab_size": V, "hidden_size": 20, "ffn_dim": 40, "num_hidden_layers": 2, "num_attention_heads": 2,
        "max_position_embeddings": 48, "word_embed_proj_dim": 20, "dropout": 0.0,
    },
    "gpt2": {"model_type": "gpt2", "vocab_size": V, "n_embd": 20, "n_layer": 2, "n_head": 2, "n_positions": 48},
    "t5": {
        "model_type": "t5", "vocab_size": V, "d_model": 20, "d_kv": 10, "d_ff": 40, "num_layers": 2, "num_heads": 2,
        "decoder_start_token_id": 0, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False,
    },
}  # fmt: skip
TOKENS = ["<s>", "<pad>", "</s>", "<bos>", *(f"w{i}" for i in range(V - 5)), "<image>"]


def generation_network(kind: str, seed: int = 0, std: float = 0.2) -> Any:
    config = transformers.Blip2Config(
        vision_config={
            "hidden_size": 24, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": SIZE,
            "patch_size": 8, "layer_norm_eps": 1e-6,
        },
        qformer_config={
            "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 48,
            "max_position_embeddings": 24, "encoder_hidden_size": 24,
        },
        text_config=LANGUAGES[kind] | {"eos_token_id": EOS, "pad_token_id": PAD, "bos_token_id": BOS},
        num_query_tokens=QUERIES,
        image_token_index=IMAGE,
    )  # fmt: skip
    theirs = transformers.Blip2ForConditionalGeneration(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            is_norm_weight = parameter.ndim == 1 and name.endswith("weight")
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * std + (1.0 if is_norm_weight else 0.0))
    return theirs


def save(theirs: Any, folder: Path) -> Path:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit

    theirs.save_pretrained(folder)
    backend = Tokenizer(WordLevel({token: i for i, token in enumerate(TOKENS)}, unk_token="<s>"))
    backend.pre_tokenizer = WhitespaceSplit()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="</s>", pad_token="<pad>", bos_token="<bos>", unk_token="<s>"
    ).save_pretrained(folder)
    return folder


def loaded_pair(kind: str, tmp_path: Path, seed: int = 0, std: float = 0.2) -> tuple[Any, Blip2]:
    theirs = generation_network(kind, seed, std)
    ours, _ = load_blip2(save(theirs, tmp_path / f"{kind}{seed}"))
    assert isinstance(ours, Blip2)
    return theirs, ours


def inputs(batch: int, length: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(batch * 100 + length)
    pixels = torch.randn(batch, 3, SIZE, SIZE, generator=generator)
    ids = torch.randint(4, IMAGE, (batch, length), generator=generator)
    lengths = torch.randint(2, length + 1, (batch,), generator=generator)
    lengths[0] = length
    mask = (torch.arange(length)[None] < lengths[:, None]).long()
    return pixels, ids.masked_fill(mask == 0, PAD), mask


def with_image(ids: Tensor) -> Tensor:
    return torch.cat([ids.new_full((len(ids), QUERIES), IMAGE), ids], 1)


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["opt", "gpt2"])
@torch.inference_mode()
def test_decoder_only_logits_and_loss_equal_transformers(kind: str, tmp_path: Path) -> None:
    theirs, ours = loaded_pair(kind, tmp_path)
    for batch, length in ((1, 4), (3, 7), (5, 9)):
        pixels, ids, mask = inputs(batch, length)
        mask_all = torch.cat([mask.new_ones(batch, QUERIES), mask], 1)
        labels = torch.cat([ids.new_full((batch, QUERIES), -100), ids.masked_fill(mask == 0, -100)], 1)
        expected = theirs(pixel_values=pixels, input_ids=with_image(ids), attention_mask=mask_all, labels=labels)
        embeds = ours.encode_image(pixels)
        close(ours.query_outputs(embeds), expected.qformer_outputs.last_hidden_state)
        kept = mask.bool()
        close(ours.lm_logits(ids, mask, embeds)[kept], expected.logits[:, QUERIES - 1 : -1][kept])
        close(ours.losses({"pixels": pixels, "ids": ids, "mask": mask})["lm"], expected.loss)


@torch.inference_mode()
def test_encoder_decoder_logits_and_prefix_loss_equal_transformers(tmp_path: Path) -> None:
    theirs, ours = loaded_pair("t5", tmp_path)
    for batch, length in ((1, 6), (3, 7), (5, 9)):
        pixels, ids, mask = inputs(batch, length)
        lengths = mask.sum(1)
        cuts = torch.tensor([1, 0, 1, 1, 0])[:batch]
        # The same texts cut by hand: prefix and suffix each to the left, padded.
        prefix, suffix = (torch.full((batch, length), PAD) for _ in range(2))
        prefix_mask, suffix_mask = (torch.zeros(batch, length, dtype=torch.int64) for _ in range(2))
        for i in range(batch):
            c, n = int(cuts[i]), int(lengths[i])
            prefix[i, :c], prefix_mask[i, :c] = ids[i, :c], 1
            suffix[i, : n - c], suffix_mask[i, : n - c] = ids[i, c:n], 1
        expected = theirs(
            pixel_values=pixels,
            input_ids=with_image(prefix),
            attention_mask=torch.cat([mask.new_ones(batch, QUERIES), prefix_mask], 1),
            labels=suffix.masked_fill(suffix_mask == 0, -100),
        )
        embeds = ours.encode_image(pixels)
        found = ours.lm_logits(suffix, suffix_mask, embeds, prefix_ids=prefix, prefix_mask=prefix_mask)
        close(found[suffix_mask.bool()], expected.logits[suffix_mask.bool()])
        close(ours.losses({"pixels": pixels, "ids": ids, "mask": mask}, cuts_B=cuts)["lm"], expected.loss)


@torch.inference_mode()
def test_captioning_by_an_encoder_decoder_is_transformers_loss_of_the_caption_behind_a_closed_prompt(tmp_path: Path) -> None:
    theirs, ours = loaded_pair("t5", tmp_path)
    pixels, ids, mask = inputs(3, 7)
    ids[:, :2] = torch.tensor([8, 9])
    mask[:, 2] = 1
    prompt = torch.tensor([[8, 9, EOS]] * 3)  # as LAVIS' and transformers' tokenizer gives it
    expected = theirs(
        pixel_values=pixels,
        input_ids=with_image(prompt),
        attention_mask=mask.new_ones(3, QUERIES + 3),
        labels=ids[:, 2:].masked_fill(mask[:, 2:] == 0, -100),
    )
    training = Blip2Training(ours, prompt_length=2, cut=False)
    close(training.losses(Batch(pixels, ids, mask, torch.arange(3)))["lm"], expected.loss)


DECODINGS = [
    Greedy(max_length=14, min_length=0),
    Greedy(max_length=14, min_length=9, repetition_penalty=1.4),
    Beam(max_length=14, min_length=0),
    Beam(max_length=14, min_length=6, beams=4, length_penalty=0.0),
    Beam(max_length=14, min_length=0, beams=5, length_penalty=2.0),
]


@pytest.mark.parametrize("kind", ["opt", "gpt2", "t5"])
@torch.inference_mode()
def test_generated_ids_equal_transformers_up_to_the_first_end(kind: str, tmp_path: Path) -> None:
    # transformers counts soft prompts in lengths, and the image token among what a text already has: no penalty to compare.
    skipped = 0 if kind == "t5" else QUERIES
    decodings = [decoding for decoding in DECODINGS if kind == "t5" or decoding.repetition_penalty == 1.0]
    prompt = torch.tensor([[BOS, 7, 9]])
    seen = set()
    for seed in range(2):
        theirs, ours = loaded_pair(kind, tmp_path, seed, 0.4)
        # Random weights rarely end a text: the end is a token that they write somewhere.
        long = ours.generate(ours.encode_image(inputs(4, 4)[0]), prompt.expand(4, -1), DECODINGS[0]).ids_BnL
        end = ours.language.eos_id = int(long[0, 0, 7 + seed])
        for decoding in decodings:
            beams = {}
            if isinstance(decoding, Beam):
                beams = {"num_beams": decoding.beams, "length_penalty": decoding.length_penalty}
            for batch in (1, 4):
                pixels, prompts = inputs(batch, 4)[0], prompt.expand(batch, -1)
                expected = theirs.generate(
                    pixel_values=pixels, input_ids=with_image(prompts), do_sample=False, eos_token_id=end,
                    max_length=decoding.max_length + skipped, min_length=decoding.min_length + skipped,
                    repetition_penalty=decoding.repetition_penalty, **beams,
                )[:, skipped:]  # fmt: skip
                found = ours.generate(ours.encode_image(pixels), prompts, decoding).ids_BnL[:, 0]
                assert to_end(found, end) == to_end(expected, end)
                seen |= set(to_end(found, end))
    assert len(seen) > 5
    assert len({len(row) for row in seen}) > 1


def to_end(ids_RL: Tensor, end: int) -> list[tuple[int, ...]]:
    """Rows up to their first end behind the prompt."""
    rows = []
    for row in ids_RL.tolist():
        stop = row.index(end, 3) + 1 if end in row[3:] else len(row)
        rows.append(tuple(row[:stop]))
    return rows


@pytest.mark.parametrize("kind", ["opt", "t5"])
@torch.inference_mode()
def test_sampling_depends_on_the_row_alone_and_needs_no_prompt(kind: str, tmp_path: Path) -> None:
    ours = loaded_pair(kind, tmp_path)[1]
    decoding = Nucleus(max_length=12, min_length=3)
    embeds = ours.encode_image(inputs(3, 4)[0])
    seeds = [[1, 2], [3, 4], [5, 6]]
    prompt = torch.zeros(0, dtype=torch.int64)
    together = ours.generate(embeds, prompt, decoding, seeds=seeds).ids_BnL
    assert together.shape[:2] == (3, 2)
    for i in range(3):
        assert torch.equal(ours.generate(embeds[i : i + 1], prompt, decoding, seeds=seeds[i : i + 1]).ids_BnL[0], together[i])
    assert ours.written_from(prompt) == (1 if kind == "t5" else 0)


def test_a_folder_without_its_tensors_is_refused_with_a_list(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = save(generation_network("opt"), tmp_path / "opt")
    tensors = load_file(folder / "model.safetensors")
    del tensors["language_projection.bias"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="missing bias"):
        load_blip2(folder)
    del tensors["query_tokens"]
    tensors["qformer.other"] = torch.zeros(1)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"(?s)missing query_tokens.*unexpected qformer.other \[1\]"):
        load_blip2(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "blip"}))
    with pytest.raises(CheckpointError, match="model_type blip-2"):
        load_blip2(folder)


@torch.inference_mode()
def test_lavis_stage_2_files_load_and_the_tokenizer_closes_texts(tmp_path: Path) -> None:
    ours, tokenizer = load_blip2(save(generation_network("opt"), tmp_path / "opt"))
    assert isinstance(ours, Blip2)
    for parameter in ours.qformer.parameters():
        parameter.add_(0.01 * torch.randn(parameter.shape))
    for block in ours.qformer.vision.blocks:  # type: ignore[union-attr]
        block.attention.qkv.bias[24:48] = 0
    state = without_biases(to_theirs(ours.qformer.state_dict(), qformer_names(ours.config, "original")))
    state |= {f"opt_proj.{name}": x for name, x in ours.projection.state_dict().items()}
    state["opt_model.lm_head.weight"] = torch.zeros(1)
    told = {"image": {"heads": 2}, "text": {"heads": 4}, "bridge_norm_eps": 1e-6}
    again = Blip2.from_original({"model": state}, ours.language, told)
    pixels, ids, mask = inputs(3, 6)
    assert torch.equal(
        ours.lm_logits(ids, mask, ours.encode_image(pixels)), again.lm_logits(ids, mask, again.encode_image(pixels))
    )
    with pytest.raises(CheckpointError, match="opt_proj"):
        Blip2.from_original({**state, "opt_proj.bias": torch.zeros(3)}, ours.language, told)
    encoded, mask_RT = tokenizer.encode_batch(["w0 w1", "w2 w3 w4 w5"], 4)
    assert encoded.tolist() == [[4, 5, EOS, PAD], [6, 7, 8, EOS]]
    assert mask_RT.sum(1).tolist() == [3, 4]
    assert tokenizer.encode_prompt("w0 w1").tolist() == [4, 5]
    assert tokenizer.decode([4, 5, EOS, 9]) == "w0 w1"


@torch.inference_mode()
def test_a_retrieval_folder_loads_with_its_tokenizer(tmp_path: Path) -> None:
    theirs = transformers.Blip2ForImageTextRetrieval(
        transformers.Blip2Config(
            vision_config={
                "hidden_size": 24, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": SIZE,
                "patch_size": 8,
            },
            qformer_config={
                "vocab_size": 13, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
                "max_position_embeddings": 24, "encoder_hidden_size": 24, "use_qformer_text_input": True,
            },
            text_config=LANGUAGES["opt"], num_query_tokens=QUERIES, image_text_hidden_size=12,
        )
    ).eval()  # fmt: skip
    torch.nn.init.normal_(theirs.query_tokens)
    theirs.save_pretrained(tmp_path)
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]", *(f"w{i}" for i in range(7))]))
    model, tokenizer = load_blip2(tmp_path)
    assert isinstance(model, QFormer)
    assert (model.config.roles, model.config.text.first_id, model.config.text.cls_id) == (("filter",), 12, 1)
    ids, mask = (torch.from_numpy(x) for x in tokenizer.encode_batch(["w1 w2", "w3"], 8))
    pixels = torch.randn(2, 3, SIZE, SIZE)
    expected = theirs(pixel_values=pixels, input_ids=ids, attention_mask=mask, use_image_text_matching_head=True).logits_per_image
    close(model.itm_logits(ids, mask, model.encode_image(pixels)), expected)
    with pytest.raises(CheckpointError, match="text head to write captions"):
        model.generate(model.encode_image(pixels), ids[0], Greedy())


def test_a_language_model_comes_from_a_folder(tmp_path: Path) -> None:
    for kind in LANGUAGES:
        network = generation_network(kind).language_model
        network.save_pretrained(tmp_path / kind)
        found = FrozenLanguage.load(tmp_path / kind, eos_id=9)
        assert (found.eos_id, found.pad_id, found.is_encoder_decoder, found.width) == (9, PAD, kind == "t5", 20)
        assert not any(parameter.requires_grad for parameter in found.model.parameters())
    with pytest.raises(CheckpointError, match="language model"):
        FrozenLanguage.load(tmp_path)
