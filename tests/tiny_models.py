"""Tiny real models made on the spot: the app's own classes and loading code, seconds to make.

Their weights are random, so their words mean nothing; their tokens, shapes, adapters and streams
are real.
"""

from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from core.assembly import Tower, join_towers

TINY_TOWER = Tower(architecture="test_efficientnet", width=256, image_size=64, stride=32)


def byte_tokenizer(extra: tuple[str, ...] = ()) -> PreTrainedTokenizerFast:
    """One token per byte, and ChatML's own; any text in any language fits."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={c: n for n, c in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    names = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *extra)
    backend.add_special_tokens([AddedToken(name, special=True) for name in names])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
    )


def make_tiny_fastvlm(folder: Path) -> Path:
    """A FastVLM of two layers, saved as `save_pretrained` does; four image tokens a picture."""
    tokenizer = byte_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        initializer_range=0.1,  # wide enough that prompts and adapters change the words
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        language_model = LlamaForCausalLM(config)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model, processor = join_towers(
            language_model, tokenizer, tower=TINY_TOWER, tower_weights=None
        )
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
