r"""Answers a question, or the prompts of a JSONL file.

    cd4lm decode --prompt="Amy has 5 pens. She buys 3. How many pens now?"
    cd4lm decode --checkpoint=experiments/checkpoints/gsm_mini_teacher \
        --input=prompts.jsonl --output=out.jsonl --gen_length=64 --block_length=32 --threshold=0.9

Input lines: {"id": ..., "prompt": "text"} or {"id": ..., "messages": [{"role", "content"}, ...]}
(put in the chat template), or {"id": ..., "prompt_ids": [...]} (taken as they are). For infilling
also "given_ids": the generation from its first position on, a token id where it is fixed, null
where it is to be decoded. Output lines, in the order of the input: {"id", "generated_ids", "text"
(with a tokenizer), "nfe", "committed_at": [pass of each position], "confidence": [...], "reason":
[a cd4lm_jax.Reason each]}.
"""

from __future__ import annotations

import dataclasses
import json
from typing import NoReturn

from absl import flags

import cd4lm_jax as cd
from cd4lm_jax import bundled
from cd4lm_jax.checkpoints.loading import load_config
from cd4lm_jax.commands import checkpoint, common, decode_flags, output
from cd4lm_jax.data.prompts import PromptRecord, read_prompts
from cd4lm_jax.decoding.config import DecodeConfig
from cd4lm_jax.decoding.rule import RULES
from cd4lm_jax.runtime import devices, files
from cd4lm_jax.runtime.progress import Progress
from cd4lm_jax.settings.choices import split_call

_INPUT = flags.DEFINE_string("input", None, "JSONL file of prompts.")
_PROMPT = flags.DEFINE_string("prompt", None, "A question to answer, in place of --input.")
_HTML = flags.DEFINE_string("html", None, "Page to write that replays the passes.")
_PLAY = flags.DEFINE_bool("play", False, "Replay the first prompt on the terminal.")

# Older names of the rule and its fields.
_COMMIT = flags.DEFINE_string("commit", None, "The same as --rule.")
_SHORTHANDS = {
    field: flags.DEFINE_string(flag, None, f"The same as --rule.{field}, where the rule has it.")
    for flag, field in (
        ("threshold", "threshold"),
        ("min_tokens_per_step", "min_tokens"),
        ("max_tokens_per_step", "max_tokens"),
        ("steps", "steps"),
        ("factor", "factor"),
        ("entropy_bound", "bound"),
    )
}
_STOP_SEQUENCES = flags.DEFINE_multi_string(
    "stop_sequence", [], "One of --stop_sequences, such as 5,6; may be given several times."
)


def main() -> None:
    """Reads, decodes, writes; the output appears only when it is complete."""
    config = chosen()
    rows, target = _asked()
    folder = checkpoint.CHECKPOINT.value or bundled.teacher()
    devices.announce(dtype="float32", parameters=load_config(folder).num_parameters)
    model = cd.load(folder)
    with Progress(len(rows), label="decode", unit="prompt") as progress:
        decoded = cd.decode(
            model,
            [row.prompt for row in rows],
            config,
            report=progress.update,
            given=[row.given_ids for row in rows],
        )
    lines = []
    for number, (row, record) in enumerate(zip(rows, decoded.trajectory.to_json(), strict=True)):
        line = {"id": row.id, "generated_ids": record["tokens"]}
        if model.tokenizer is not None:
            line["text"] = decoded.text[number]
        line |= {name: record[name] for name in ("nfe", "committed_at", "confidence", "reason")}
        lines.append(json.dumps(line, ensure_ascii=False))
    if target is None:
        answer = decoded.text[0] if model.tokenizer is not None else decoded.trajectory.tokens[0]
        print(f"{answer}\n({decoded.nfe[0]} passes, {decoded.seconds:.2f} s)")
    else:
        files.write_text(target, "\n".join(lines) + "\n")
        passes = f"{decoded.nfe.mean():.1f} passes each, {decoded.seconds:.2f} s"
        print(f"{len(rows)} prompts, {passes}: {target}")
    if _HTML.value is not None:
        # A lone surrogate in a prompt must not cost the page.
        files.write_bytes(_HTML.value, decoded.to_html().encode("utf-8", errors="replace"))
        print(f"passes: {_HTML.value}")
    if _PLAY.value:
        decoded.play()


def _asked() -> tuple[list[PromptRecord], str | None]:
    """The prompts, and the file to write; None where the answer to one question is printed."""
    if _PROMPT.value is None:
        if _INPUT.value is None:
            raise common.UsageError("give --input=PROMPTS.jsonl or --prompt='a question'")
        return read_prompts(_INPUT.value), common.given(output.OUTPUT)
    if _INPUT.value is not None:
        raise common.UsageError("give either --input or --prompt")
    return [PromptRecord(id=0, prompt=_PROMPT.value)], output.OUTPUT.value


def chosen() -> DecodeConfig:
    """The decode that the flags ask for.

    Raises:
        ValueError: values that are none, or do not fit each other.
    """
    try:
        text = decode_flags.DECODE.text("rule") or _COMMIT.value or "confidence"
        rule = RULES.find(split_call(text)[0])
        fields = [field.name for field in dataclasses.fields(rule)]
        changes = {
            f"rule.{field}": flag.value
            for field, flag in _SHORTHANDS.items()
            if field in fields and flag.value is not None
        }
        # The bundled teacher was trained for answers of these lengths.
        base = (
            DecodeConfig(gen_length=64) if checkpoint.CHECKPOINT.value is None else DecodeConfig()
        )
        config = decode_flags.DECODE.chosen(base, {"rule": text, **changes})
    except ValueError as error:
        raise common.UsageError(str(error)) from error
    if not _STOP_SEQUENCES.value:
        return config
    sequences = tuple(map(_token_ids, _STOP_SEQUENCES.value))
    return dataclasses.replace(config, stop_sequences=config.stop_sequences + sequences)


def _token_ids(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(token) for token in text.split(","))
    except ValueError:
        raise common.UsageError(
            f"stop_sequence={text} are no token ids; give some like 317,316"
        ) from None


def run() -> NoReturn:
    """Parses the command line and runs the command."""
    common.run(main)
