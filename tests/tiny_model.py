"""A Llama small enough to build in a test: random weights, a real tokenizer, a real template.

What it says is nonsense; how it is loaded, prompted, stopped and streamed is what a real model
goes through.
"""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SPECIAL_TOKENS = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|finetune_right_pad_id|>",
)

CHAT_TEMPLATE = (
    "{{- bos_token }}"
    "{%- for message in messages %}"
    "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{{- message['content'] | trim + '<|eot_id|>' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}"
    "{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
    "{%- endif %}"
)

SENTENCES = (
    "Every employee has twelve days of paid leave a year, and one more for each five years.",
    "Riders of motorbikes must wear a helmet; the fine for riding without one is on page 3.",
    "You are a helpful assistant. Answer the question from the documents and name the source.",
    "What is the speed limit in a residential area? It is fifty kilometres per hour.",
    "Người lao động được nghỉ phép năm mười hai ngày, hưởng nguyên lương.",
    "Người điều khiển xe mô tô, xe gắn máy phải đội mũ bảo hiểm theo quy định của pháp luật.",
    "Tốc độ tối đa trong khu dân cư là năm mươi ki-lô-mét trên giờ. Xin chào, cảm ơn bạn!",
    "Điều 5. Mức phạt tiền đối với hành vi vượt đèn đỏ được quy định tại khoản 3.",
)


def build_tiny_llama(
    folder: Path,
    *,
    vocab_size: int = 768,
    seed: int = 0,
    context: int = 512,
    chat_template: str | None = CHAT_TEMPLATE,
    endless: bool = False,
) -> Path:
    """Write a tiny Llama to `folder` (made if needed) and return it.

    It loads through `AutoTokenizer` and `AutoModelForCausalLM`, in fp32 safetensors.

    Args:
        folder: Where config, weights and tokenizer go.
        vocab_size: Upper limit of the vocabulary, at least 262 (256 bytes and the special tokens);
            the few training sentences give fewer than 600 tokens.
        seed: Of the random weights; the same seed gives the same model.
        context: `max_position_embeddings`, in tokens.
        chat_template: Jinja source; None leaves the model without one.
        endless: Greedy decoding never ends the text, so that it is still running when a test
            interrupts it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = small_tokenizer(vocab_size, context, chat_template)
    tokenizer.save_pretrained(folder)
    stops = [SPECIAL_TOKENS.index("<|end_of_text|>"), SPECIAL_TOKENS.index("<|eot_id|>")]
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=stops,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
        # Wider than a trained model's, so that argmaxes are apart and sampling is varied.
        initializer_range=0.2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    if endless:
        # Logits of exactly 0, which some of the hundreds of others always exceed.
        with torch.no_grad():
            model.lm_head.weight[stops] = 0
    model.generation_config.eos_token_id = stops
    model.save_pretrained(folder)
    return folder


def small_tokenizer(
    vocab_size: int, context: int, chat_template: str | None
) -> PreTrainedTokenizerFast:
    """A byte-level BPE of `SENTENCES` with the marks of Llama 3; see `build_tiny_llama`."""
    bpe = Tokenizer(BPE())
    bpe.pre_tokenizer = ByteLevel(add_prefix_space=False)
    bpe.decoder = ByteLevelDecoder()
    trainer = BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(SENTENCES, trainer)
    # As Llama 3 does: encoding with special tokens adds a BOS, on top of the template's own.
    bpe.post_processor = TemplateProcessing(
        single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", 0)]
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=bpe,
        bos_token="<|begin_of_text|>",
        eos_token="<|eot_id|>",
        pad_token="<|finetune_right_pad_id|>",
        model_max_length=context,
        chat_template=chat_template,
        clean_up_tokenization_spaces=False,
    )
