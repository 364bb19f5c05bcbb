"""Whether tokenizer, data, student and teacher of a run fit each other."""

from __future__ import annotations

from cd4lm_jax.checkpoints.loading import stored_mode
from cd4lm_jax.data.pipeline import DataConfig
from cd4lm_jax.data.tokenizer import Tokenizer
from cd4lm_jax.distillation.config import TrainingError
from cd4lm_jax.models.config import ModelConfig


def check_tokenizer(tokenizer: Tokenizer, model: ModelConfig, folder: str) -> None:
    """Compares a tokenizer with the model that is trained on its ids.

    Args:
        tokenizer: of the run.
        model: the student's architecture; its vocabulary may be padded beyond the tokenizer's.
        folder: of the tokenizer, for messages.

    Raises:
        TrainingError: ids beyond the vocabulary, or another mask or end token.
        ValueError: the model has no mask token.
    """
    model.check_mask()
    if tokenizer.vocab_size > model.vocab_size:
        raise TrainingError(
            f"the tokenizer in {folder} has {tokenizer.vocab_size} tokens, the model's vocabulary "
            f"{model.vocab_size}; give the tokenizer that belongs to the model"
        )
    if tokenizer.mask_id != model.mask_id:
        raise TrainingError(
            f"the mask token of the tokenizer in {folder} is {tokenizer.mask_id}, the model's "
            f"{model.mask_id}; give the tokenizer that belongs to the model, or correct mask_id"
        )
    # Instruction-tuned models of Qwen's and Llama's kind end with the end of the turn alone.
    ends = {tokenizer.eos_id, tokenizer.eot_id}
    if not ends & {model.eos_id, *model.end_ids}:
        raise TrainingError(
            f"the end tokens of the tokenizer in {folder} are {tokenizer.eos_id} and "
            f"{tokenizer.eot_id}, neither of which ends an answer of the model (eos_id "
            f"{model.eos_id}, end_ids {model.end_ids}); give the tokenizer that belongs to the "
            "model, or correct end_ids"
        )


def check_trainable(folder: str) -> None:
    """Looks whether all parameters of the model in a folder can be trained.

    Raises:
        TrainingError: they are quantised.
    """
    mode = stored_mode(folder)
    if mode != "none":
        raise TrainingError(
            f"{folder} is quantised in {mode}, and integers cannot be trained; give lora, which "
            "trains adapters of it, or the folder that it was made from"
        )


def check_length(data: DataConfig, model: ModelConfig, name: str) -> None:
    """Compares the rows of a data set with the positions that a model has.

    Args:
        data: the layout of its rows.
        model: the student's or the teacher's architecture.
        name: of the setting, `data` or `validation`.

    Raises:
        TrainingError: rows longer than the model.
    """
    if data.max_length > model.max_length:
        raise TrainingError(
            f"{name}.max_length={data.max_length} is beyond the {model.max_length} positions of "
            f"the model; give at most {model.max_length}"
        )


def check_teacher(teacher: ModelConfig, student: ModelConfig, folder: str) -> None:
    """Compares a teacher with the student: they may differ in size, not in tokens or blocks.

    Args:
        teacher: its architecture.
        student: the student's.
        folder: of the teacher, for messages.

    Raises:
        TrainingError: another vocabulary, another mask token, or blocks of one alone or of unlike
            lengths.
    """
    for name in ("vocab_size", "mask_id"):
        theirs, ours = getattr(teacher, name), getattr(student, name)
        if theirs != ours:
            raise TrainingError(
                f"the teacher in {folder} has {name} {theirs}, the student {ours}; distillation "
                "compares distributions over the same tokens: give a teacher of the same vocabulary"
            )
    if _blocks(teacher) != _blocks(student):
        raise TrainingError(
            f"the teacher in {folder} attends {_blocks(teacher)}, the student {_blocks(student)}; "
            "a teacher must be shown the finished blocks that its student is: give a teacher of "
            "the same attention and block_length"
        )


def _blocks(model: ModelConfig) -> str:
    """How a model's positions attend blocks, in words."""
    if model.attention == "block":
        return f"by blocks of {model.block_length}"
    return "without blocks"
