r"""Answers the prompts of a JSONL file.

    python -m launch.decode --checkpoint=experiments/checkpoints/gsm_mini_teacher \
        --input=prompts.jsonl --output=out.jsonl --gen_length=64 --block_length=32 --threshold=0.9

Input lines: {"id": ..., "prompt": "text"} or {"id": ..., "messages": [{"role", "content"}, ...]}
(put in the chat template), or {"id": ..., "prompt_ids": [...]} (taken as they are). For infilling
also "given_ids": the generation from its first position on, a token id where it is fixed, null
where it is to be decoded. Output lines, in the order of the input: {"id", "generated_ids", "text"
(with a tokenizer), "nfe", "committed_at": [pass of each position], "confidence": [...], "reason":
[a cd4lm_jax.Reason each]}.
"""

from __future__ import annotations

import json
from typing import NoReturn

from absl import flags

import cd4lm_jax as cd
from cd4lm_jax.commands import common, output, shapes
from cd4lm_jax.data.prompts import read_prompts
from cd4lm_jax.runtime import files
from cd4lm_jax.runtime.progress import Progress

_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "Model folder: exported by training, or a LLaDA Hugging Face checkpoint."
)
_INPUT = flags.DEFINE_string("input", None, "JSONL file of prompts.")
_HTML = flags.DEFINE_string("html", None, "Page to write that replays the passes.")
_PLAY = flags.DEFINE_bool("play", False, "Replay the first prompt on the terminal.")
_THRESHOLD_RULES = {
    "confidence": cd.ConfidenceAdaptive,
    "entropy": cd.NegativeEntropy,
    "margin": cd.Margin,
}
_STEP_RULES = {"fixed": cd.FixedStep, "random": cd.RandomStep}
_RULES = [*_THRESHOLD_RULES, *_STEP_RULES, "factor", "entropy_bound"]
_COMMIT = flags.DEFINE_enum("commit", "confidence", _RULES, "Commit rule.")
_THRESHOLD = flags.DEFINE_float(
    "threshold", 0.95, "Least confidence, negative entropy or margin of a token to be committed."
)
_FACTOR = flags.DEFINE_float("factor", 1.0, "Of the factor rule.")
_ENTROPY_BOUND = flags.DEFINE_float("entropy_bound", 0.1, "Of the entropy_bound rule, in nats.")
_MIN_TOKENS = flags.DEFINE_integer("min_tokens_per_step", 1, "Committed in every pass at least.")
_MAX_TOKENS = flags.DEFINE_integer("max_tokens_per_step", 32, "Committed in a pass at most.")
_STEPS = flags.DEFINE_integer(
    "steps", 0, "Passes of the fixed and random rules; 0: one token a pass."
)
_EOS_GATE = flags.DEFINE_float(
    "eos_gate_ratio", 0.0, "Hold back end tokens until this share is committed."
)
_EOS_IDS = flags.DEFINE_list("eos_token_ids", None, "Tokens held back; default: the model's own.")
_MAX_STEPS = flags.DEFINE_integer(
    "max_steps_per_block", 0, "After so many passes one more commits the rest of a block; 0: never."
)
_CFG_SCALE = flags.DEFINE_float("cfg_scale", 0.0, "Classifier-free guidance; 0: none.")
_TEMPERATURE = flags.DEFINE_float(
    "temperature", 0.0, "Of the noise tokens are drawn with; 0: none."
)
_SEED = flags.DEFINE_integer("seed", 0, "Of the noise.")
_PROPOSE_MASK = flags.DEFINE_bool(
    "propose_mask", False, "Let the mask token be proposed and wasted, as the published code does."
)
_TOP_K = flags.DEFINE_integer("top_k", 0, "Draw among so many of the best tokens; 0: all.")
_TOP_P = flags.DEFINE_float(
    "top_p", 1.0, "Draw among the fewest tokens of this probability together; 1: all."
)
_SUPPRESS = flags.DEFINE_list("suppress", [], "Tokens that are never generated.")
_REFRESH_INTERVAL = flags.DEFINE_integer(
    "refresh_interval", 0, "Passes after which the cache is made anew within a block; 0: never."
)
_BLOCK_CAUSAL = flags.DEFINE_bool(
    "block_causal", False, "Attend no later block, for models that were trained so."
)
_MAX_PASSES = flags.DEFINE_integer(
    "max_passes", 0, "Passes of a prompt; the last one commits the rest of its block; 0: no limit."
)
_STOP_SEQUENCES = flags.DEFINE_multi_string(
    "stop_sequence", [], "Token ids, such as 5,6, that end a row; may be given several times."
)
_STOP_AT_EOS = flags.DEFINE_bool("stop_at_eos", True, "End a row at its end token.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 8, "Prompts decoded at once.")


def main() -> None:
    """Reads, decodes, writes; the output appears only when it is complete."""
    checkpoint, source, target = map(common.given, (_CHECKPOINT, _INPUT, output.OUTPUT))
    rows = read_prompts(source)
    rule = commit_rule()
    model = cd.load(checkpoint)
    with Progress(len(rows), label="decode", unit="prompt") as progress:
        decoded = cd.decode(
            model,
            [row.prompt for row in rows],
            commit=rule,
            report=progress.update,
            given=[row.given_ids for row in rows],
            gen_length=shapes.GEN_LENGTH.value,
            block_length=shapes.BLOCK_LENGTH.value,
            stop_at_eos=_STOP_AT_EOS.value,
            stop_sequences=tuple(
                token_ids("stop_sequence", given.split(",")) for given in _STOP_SEQUENCES.value
            ),
            max_passes=_MAX_PASSES.value,
            eos_gate_ratio=_EOS_GATE.value,
            eos_token_ids=None
            if _EOS_IDS.value is None
            else token_ids("eos_token_ids", _EOS_IDS.value),
            max_steps_per_block=_MAX_STEPS.value,
            cfg_scale=_CFG_SCALE.value,
            temperature=_TEMPERATURE.value,
            top_k=_TOP_K.value,
            top_p=_TOP_P.value,
            suppress=token_ids("suppress", _SUPPRESS.value),
            cache=shapes.CACHE.value,
            refresh_interval=_REFRESH_INTERVAL.value,
            block_causal=_BLOCK_CAUSAL.value,
            propose_mask=_PROPOSE_MASK.value,
            batch_size=_BATCH_SIZE.value,
            seed=_SEED.value,
        )
    lines = []
    for number, (row, record) in enumerate(zip(rows, decoded.trajectory.to_json(), strict=True)):
        line = {"id": row.id, "generated_ids": record["tokens"]}
        if model.tokenizer is not None:
            line["text"] = decoded.text[number]
        line |= {name: record[name] for name in ("nfe", "committed_at", "confidence", "reason")}
        lines.append(json.dumps(line, ensure_ascii=False))
    files.write_text(target, "\n".join(lines) + "\n")
    print(
        f"{len(rows)} prompts, {decoded.nfe.mean():.1f} passes each, {decoded.seconds:.2f} s: "
        f"{target}"
    )
    if _HTML.value is not None:
        # A lone surrogate in a prompt must not cost the page.
        files.write_bytes(_HTML.value, decoded.to_html().encode("utf-8", errors="replace"))
        print(f"passes: {_HTML.value}")
    if _PLAY.value:
        decoded.play()


def commit_rule() -> cd.CommitRule:
    """The rule that the flags ask for."""
    name = _COMMIT.value
    if name == "factor":
        return cd.Factor(factor=_FACTOR.value)
    if name == "entropy_bound":
        return cd.EntropyBounded(bound=_ENTROPY_BOUND.value)
    if name in _STEP_RULES:
        return _STEP_RULES[name](steps=_STEPS.value or shapes.GEN_LENGTH.value)
    return _THRESHOLD_RULES[name](
        threshold=_THRESHOLD.value, min_tokens=_MIN_TOKENS.value, max_tokens=_MAX_TOKENS.value
    )


def token_ids(flag: str, given: list[str]) -> tuple[int, ...]:
    """The token ids that a flag lists.

    Raises:
        ValueError: something else.
    """
    try:
        return tuple(int(token) for token in given)
    except ValueError:
        raise ValueError(
            f"{flag}={','.join(given)} are no token ids; give some like 317,316"
        ) from None


def run() -> NoReturn:
    """Parses the command line and runs the command."""
    common.run(main)
