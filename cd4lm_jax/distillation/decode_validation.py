"""Decodes validation prompts with the student as it is, by the loop that decodes everywhere."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from cd4lm_jax.data.conversations import conversation
from cd4lm_jax.data.pipeline import DataConfig
from cd4lm_jax.data.tokenizer import Tokenizer
from cd4lm_jax.decoding import agreement, batching
from cd4lm_jax.decoding.config import DecodeConfig
from cd4lm_jax.decoding.trajectory import Trajectory
from cd4lm_jax.distillation import judging
from cd4lm_jax.distillation.config import TrainingError
from cd4lm_jax.distillation.selection import ByDecoding, Point
from cd4lm_jax.models.config import ModelConfig
from cd4lm_jax.models.transformer import Transformer


class References(NamedTuple):
    """What is decoded, and what is right.

    Attributes:
        prompts: token ids.
        answers: texts.
        tokens: those texts as token ids.
    """

    prompts: list[list[int]]
    answers: list[str]
    tokens: list[list[int]]


class DecodeValidation:
    """The prompts of a run and how their decodes are judged."""

    def __init__(
        self, selection: ByDecoding, data: DataConfig, tokenizer: Tokenizer, model: ModelConfig
    ) -> None:
        """Reads the prompts, so that what does not fit is found before the first update.

        Raises:
            TrainingError: too few prompts, or one that leaves no room for its answer.
            SourceError: the source cannot be opened.
        """
        self._selection, self._tokenizer = selection, tokenizer
        source = data.open()
        if len(source) < selection.prompts:
            raise TrainingError(
                f"selection.prompts={selection.prompts}, and {data.source} {data.split} has "
                f"{len(source)} rows; give at most that many"
            )
        examples = [source[place] for place in range(selection.prompts)]
        self.references = References(
            [tokenizer.prompt(conversation(example), example.get("tools")) for example in examples],
            [example["answer"] for example in examples],
            tokenizer.encode_all([example["answer"] for example in examples]),
        )
        longest = max(map(len, self.references.prompts))
        if longest + selection.decode.gen_length > model.max_length:
            raise TrainingError(
                f"selection.decode.gen_length={selection.decode.gen_length} after a validation "
                f"prompt of {longest} tokens is beyond the model's {model.max_length} positions; "
                "give a shorter one"
            )

    def points(self, model: Transformer) -> list[Point]:
        """One point for each threshold, in their order; call under the run's mesh."""
        return [self._point(model, run) for run in self._selection.runs]

    def _point(self, model: Transformer, run: DecodeConfig) -> Point:
        decoded = batching.decode(model, self.references.prompts, run).trajectory
        answers = [row[:length].tolist() for row, length in _rows(decoded)]
        same = np.array(
            [mine == right for mine, right in zip(answers, self.references.tokens, strict=True)]
        )
        right, judge = same, judging.judge(self._selection.judge)
        if judge is not None:
            texts = [self._tokenizer.decode(answer) for answer in answers]
            right = judge(texts, self.references.answers)
        alike = map(agreement.similarity, answers, self.references.tokens)
        threshold: float = getattr(run.rule, "threshold")  # noqa: B009  # ByDecoding's rule is CAD
        return Point(
            threshold=threshold,
            accuracy=float(np.mean(right)),
            passes=float(decoded.nfe.mean()),
            tpf=float(decoded.tokens_per_pass.mean()),
            exact=float(same.mean()),
            similarity=float(np.mean([*alike])),
        )


def _rows(decoded: Trajectory) -> list[tuple[np.ndarray, int]]:
    """Tokens of each answer and how many come before its end."""
    return [*zip(decoded.tokens, decoded.length.tolist(), strict=True)]
