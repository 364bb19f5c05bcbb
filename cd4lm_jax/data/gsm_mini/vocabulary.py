"""The tokenizer of gsm_mini, and how it was trained.

    python -m cd4lm_jax.data.gsm_mini.vocabulary

writes the committed folder `tokenizer/` again, the same bytes.
"""

from __future__ import annotations

import itertools
from pathlib import Path

from cd4lm_jax.data.gsm_mini.generate import generate
from cd4lm_jax.data.tokenizer import Tokenizer
from cd4lm_jax.data.train_tokenizer import train_tokenizer

FOLDER = Path(__file__).parent / "tokenizer"
VOCAB_SIZE = 512  # enough for every word of the problems to be one token
_PROBLEMS = 10_000
_TEMPLATE_WORDS = "user\n\nassistant"  # the words of the chat template, one token each too


def train() -> Tokenizer:
    """Trains the tokenizer on the first problems of the pretrain split."""
    problems = generate("pretrain", _PROBLEMS)
    texts = ((_TEMPLATE_WORDS, problem.question, problem.answer) for problem in problems)
    return train_tokenizer(itertools.chain.from_iterable(texts), VOCAB_SIZE)


def load() -> Tokenizer:
    """The committed tokenizer."""
    return Tokenizer.load(FOLDER)


if __name__ == "__main__":
    train().save(FOLDER)
