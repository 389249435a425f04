"""A language model's own tokenizer: what stands before a caption is the same in training and in writing."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
from tokenizers import ByteLevelBPETokenizer, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing

from capfilt.modeling.blip2.language import FrozenLanguage
from capfilt.modeling.blip2.tokenizer import LanguageTokenizer

transformers = pytest.importorskip("transformers")
PROMPT, TEXT = "a picture of ", "a picture of a red dog"


def byte_pairs() -> LanguageTokenizer:
    """As of OPT and GPT-2: a space belongs to the word behind it."""
    backend = ByteLevelBPETokenizer()
    backend.train_from_iterator(
        [TEXT] * 4, vocab_size=300, min_frequency=1, special_tokens=["<pad>", "</s>"], show_progress=False
    )
    made = transformers.PreTrainedTokenizerFast(tokenizer_object=backend._tokenizer, eos_token="</s>", pad_token="<pad>")
    return LanguageTokenizer(made, language(is_encoder_decoder=False))


def closing() -> LanguageTokenizer:
    """As of T5: every text that it reads ends in </s>."""
    words = ["<pad>", "</s>", "<unk>", *dict.fromkeys(TEXT.split())]
    backend = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = WhitespaceSplit()
    backend.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    made = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", pad_token="<pad>", unk_token="<unk>")
    return LanguageTokenizer(made, language(is_encoder_decoder=True))


def language(**kind: Any) -> FrozenLanguage:
    return cast(FrozenLanguage, SimpleNamespace(eos_id=1, pad_id=0, **kind))


def test_the_space_behind_a_prompt_is_no_token_of_byte_pairs() -> None:
    tokenizer = byte_pairs()
    prompt = tokenizer.encode_prompt(PROMPT).tolist()
    text = tokenizer.encode_batch([TEXT], 32)[0][0].tolist()
    assert tokenizer.decode(prompt) == PROMPT.strip()
    assert text[: len(prompt)] == prompt
    assert tokenizer.decode(text[len(prompt) :]) == "a red dog"
    assert tokenizer.tokens()[text[len(prompt)]] == "\u0120a"


def test_an_encoder_reads_a_prompt_as_it_reads_any_text() -> None:
    """What LAVIS and transformers give T5's encoder: the closing token too."""
    tokenizer = closing()
    assert tokenizer.encode_prompt(PROMPT).tolist() == [3, 4, 5, 1]
    assert tokenizer.encode_prompt("").tolist() == [1]
    assert tokenizer.encode_batch([TEXT], 32)[0].tolist() == [[3, 4, 5, 3, 6, 7, 1]]
