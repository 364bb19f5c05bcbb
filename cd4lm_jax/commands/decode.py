r"""Answers a question, or the prompts of a JSONL file.

    cd4lm decode --prompt="Amy has 5 pens. She buys 3. How many pens now?"
    cd4lm decode --checkpoint=experiments/checkpoints/gsm_mini_teacher \
        --input=prompts.jsonl --output=out.jsonl --gen_length=64 --block_length=32 --threshold=0.9

Input lines: {"id": ..., "prompt": "text"} or {"id": ..., "messages": [{"role", "content"}, ...]}
(put in the chat template), or {"id": ..., "prompt_ids": [...]} (taken as they are). For infilling
also "given_ids": the generation from its first position on, a token id where it is fixed, null
where it is to be decoded. Output lines, in the order of the input: {"id", "generated_ids", "text"
(with a tokenizer), "length" (ids before the first end token), "nfe", "committed_at": [pass of each
position], "confidence": [...], "reason": [a cd4lm_jax.Reason each]}. They are kept in
OUTPUT.journal until all are there: the same command goes on where an interrupted one was. Several
hosts that share the output's folder share the prompts.
"""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
from typing import NoReturn

from absl import flags

import cd4lm_jax as cd
from cd4lm_jax import bundled
from cd4lm_jax.checkpoints.loading import load_config
from cd4lm_jax.commands import (
    checkpoint,
    common,
    compilation,
    decode_flags,
    hosts,
    output,
    placement_flags,
)
from cd4lm_jax.data.prompts import PromptRecord, read_prompts
from cd4lm_jax.decoding.config import DecodeConfig
from cd4lm_jax.decoding.rule import RULES
from cd4lm_jax.evaluation.runs import decodes
from cd4lm_jax.runtime import cluster, devices, files, interrupt
from cd4lm_jax.runtime.progress import Progress
from cd4lm_jax.settings.choices import split_call

_INPUT = flags.DEFINE_string("input", None, "JSONL file of prompts.")
_PROMPT = flags.DEFINE_string("prompt", None, "A question to answer, in place of --input.")
_CHUNK = flags.DEFINE_integer(
    "chunk",
    None,
    "Prompts decoded together and then written: what an interruption can lose, and what one of "
    "several hosts takes at a time; 8 x batch_size by default.",
    lower_bound=1,
)
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
    """Reads, decodes, writes; the output appears when it is complete."""
    with cluster.joined(hosts.described()):
        compilation.keep()
        placement = placement_flags.chosen()
        source = checkpoint.CHECKPOINT.value or bundled.teacher()
        rows, target = _asked()
        config = chosen(source)
        devices.available()  # before anything asks which host this is
        with contextlib.ExitStack() as stack:
            # First: loading a model may take minutes.
            folder = None if target is None else stack.enter_context(decodes.journal_of(target))
            base = checkpoint.BASE.value
            placement_flags.announce(source, placement, base)
            model = cd.load(source, placement, base=base)
            quiet = not cluster.is_main()
            progress = Progress(len(rows), label="decode", unit="prompt", quiet=quiet)
            progress = stack.enter_context(progress)
            if folder is None or target is None:
                asked, given = [row.prompt for row in rows], [row.given_ids for row in rows]
                decoded = cd.decode(model, asked, config, report=progress.update, given=given)
            else:
                stack.enter_context(_stoppable(folder))
                decoded = decodes.decode_file(
                    model,
                    rows,
                    config,
                    target,
                    folder,
                    chunk=_CHUNK.value or 8 * config.batch_size,
                    report=progress.update,
                )
        if cluster.is_main():
            _show(decoded, target)


def _stoppable(folder: pathlib.Path) -> contextlib.AbstractContextManager[None]:
    kept = f"stopped; what was decoded is in {folder}, the same command continues"
    return interrupt.leaving_at_once(kept)


def _show(decoded: cd.Decoded, target: str | None) -> None:
    """Says what came of it, and writes the page."""
    if target is None:
        known = decoded.tokenizer is not None
        answer = decoded.text[0] if known else decoded.trajectory.tokens[0]
        print(f"{answer}\n({decoded.nfe[0]} passes, {decoded.seconds:.2f} s)")
    else:
        passes = f"{decoded.nfe.mean():.1f} passes each, {decoded.seconds:.2f} s"
        print(f"{len(decoded.prompts)} prompts, {passes}: {target}")
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


def chosen(source: str) -> DecodeConfig:
    """The decode that the flags ask for, of the model in a folder.

    Raises:
        ValueError: values that are none, or do not fit each other.
    """
    model = load_config(source, checkpoint.BASE.value)
    base = DecodeConfig.for_model(model)
    try:
        text = decode_flags.DECODE.text("rule") or _COMMIT.value or "confidence"
        rule = RULES.find(split_call(text)[0])
        fields = [field.name for field in dataclasses.fields(rule)]
        changes = {
            f"rule.{field}": flag.value
            for field, flag in _SHORTHANDS.items()
            if field in fields and flag.value is not None
        }
        config = decode_flags.DECODE.chosen(base, {"rule": text, **changes})
        config.shape(model)  # lengths and ids that do not fit are found before weights are read
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
