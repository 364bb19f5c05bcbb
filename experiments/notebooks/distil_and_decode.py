# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Distil and decode in ten minutes
#
# A language model like GPT writes one token a forward pass, from left to right. A
# **masked-diffusion** model (LLaDA, Dream) starts from an answer that is all masks, attends in both
# directions, and predicts *every* masked token in every pass. How many of the predictions to keep
# is up to the decoder: one a pass is slow and right, all of them is fast and wrong.
#
# You will see why, and then move the trade-off twice:
#
# * **CAD** keeps in each pass what the model is confident of, so that passes follow the problem;
# * **DSCD** distils a student that is confident of more, earlier.
#
# You need to know some PyTorch or JAX, and nothing about diffusion. Ten minutes on two CPU cores;
# on Colab any runtime will do. (If Colab asks to restart after the first cell, do, and run it
# again.)

# %%
import importlib.util
import os
import pathlib
import shutil
import subprocess
import sys

REPOSITORY = "https://github.com/YOUR-NAME/cd4lm_jax"  # Colab clones it; put in your fork

folder = pathlib.Path.cwd()
if "google.colab" in sys.modules:  # installs there, and nowhere else
    folder = pathlib.Path("/content/cd4lm_jax")
    if not folder.is_dir():
        subprocess.run(["git", "clone", "--quiet", "--depth=1", REPOSITORY, folder], check=True)
        gpu, tpu = shutil.which("nvidia-smi"), importlib.util.find_spec("libtpu")
        target = f"{folder}[cuda]" if gpu else f"{folder}[tpu]" if tpu else f"{folder}"
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", target], check=True)
os.chdir(next(at for at in (folder, *folder.parents) if (at / "pyproject.toml").is_file()))

# %% tags=["parameters"]
STEPS = 400  # of distillation
BATCH = 32
PROBLEMS = 100  # to evaluate on
THRESHOLDS = (0.7, 0.9, 0.95, 0.98)
OUTPUT = "runs/notebook"

# %% [markdown]
# ## One pass
#
# The teacher comes with the project: 0.98 million parameters, trained on grade-school word
# problems. It is an ordinary transformer without a causal mask. Put masks where the answer should
# be, and one forward pass returns logits for all of them.

# %%
import jax
import jax.numpy as jnp

import cd4lm_jax as cd
from experiments.configs import gsm_mini

teacher = cd.load(gsm_mini.TEACHER)
tokenizer = teacher.tokenizer

question = "Amy has 5 pens. She buys 3. She gives away half. How many pens now?"
prompt = teacher.prompt_ids(question)
tokens = jnp.array([prompt + [tokenizer.mask_id] * 64])


@jax.jit
def predict(transformer, tokens):
    """Probabilities of all tokens at all positions, [batch, length, vocabulary]."""
    return jax.nn.softmax(transformer(tokens, valid=jnp.ones_like(tokens, bool)))


answer = predict(teacher.transformer, tokens)[0, len(prompt) :]
for position in range(8):
    best = jax.lax.top_k(answer[position], 3)
    guesses = [f"{tokenizer.decode_one(int(i))!r} {p:.2f}" for p, i in zip(*best, strict=True)]
    print(f"position {position}:  " + "   ".join(guesses))

# %% [markdown]
# Each line is a separate distribution. The training text says the same thing in several phrasings,
# and no position knows which of them the others will choose. So the best tokens, taken all at once,
# need not be a sentence, let alone the right one:

# %%
print(tokenizer.decode(answer.argmax(axis=-1).tolist()))

# %% [markdown]
# ## As many passes as it takes
#
# The remedy is to keep the most confident token only, put it in, and predict again: 64 positions,
# 64 passes. That is LLaDA's decoder, and here the baseline. Press *Play*; each token carries the
# number of the pass that committed it, and its colour is the confidence it had.

# %%
shape = {"gen_length": 64, "block_length": 32}  # two blocks, from left to right
baseline = cd.decode(teacher, [question], rule=cd.FixedStep(), stop_at_eos=False, **shape)
print(f"{baseline.nfe[0]} passes")
baseline

# %% [markdown]
# Most of these passes commit a token that was highly probable long before. **Confidence-adaptive
# decoding** (CAD) commits *every* token whose probability reaches a threshold, at least one a pass,
# and stops where the answer ends. All of it is one compiled `lax.while_loop`: an easy problem is
# over sooner.

# %%
cad = cd.ConfidenceAdaptive(threshold=0.9)
adaptive = cd.decode(teacher, [question], rule=cad, **shape)
print(f"{adaptive.nfe[0]} passes")
adaptive

# %% [markdown]
# ## A student that is confident earlier
#
# The last tokens to be committed are not the sums but the words around them, of which several would
# be correct. Low confidence costs passes, and distillation raises it. **Discrete-space consistency
# distillation** (DSCD) masks one answer twice: the student gets many masks, the frozen teacher a
# subset of them. The student learns to predict from little context what the teacher predicts from
# more. Here is one training example as each of them gets it:

# %%
import dataclasses

from cd4lm_jax.corruption.views import Batch

recipe = gsm_mini.get_config()
masks = recipe.corruption
example = recipe.data.open()[0]
text = tokenizer.encode(example["answer"])
every = jnp.ones((1, len(text)), bool)
batch = Batch(jnp.array([text]), valid=every, answer=every, index=jnp.array([3]))
views = masks.views(jax.random.key(0), batch, models=None)
print(example["question"])
for who, masked in {"teacher": views.teacher, "student": views.student}.items():
    shown = jnp.where(masked, tokenizer.mask_id, batch.tokens)[0].tolist()
    print(f"{who}: {tokenizer.decode(shown, skip_special=False)!r}".replace("<|mdm_mask|>", "░"))

# %% [markdown]
# Where the student has a mask, the loss is
#
# $$\lambda \, T^2 \, \mathrm{KL}(p_T \,\|\, p_S) + (1 - \lambda) \, \mathrm{CE}(p_S)$$
#
# with $p_T$ the teacher's distribution, $p_S$ the student's, and $\lambda$ from 0.9 to 0.5 over
# training: first the teacher's distribution, then more and more the text. (The recipe adds
# entropy regularisation; its docstring says what each part brought.) Student and teacher start as
# the same weights.

# %%
from cd4lm_jax.distillation.trainer import train

recipe = dataclasses.replace(
    recipe,
    output=OUTPUT,
    steps=STEPS,
    eval_every=STEPS,
    optimizer=dataclasses.replace(recipe.optimizer, warmup_steps=min(20, STEPS)),
    data=dataclasses.replace(recipe.data, batch_size=BATCH),
)
result = train(recipe)
student = cd.load(result.folder)

# %% [markdown]
# The same question, the same rule, the same threshold:

# %%
distilled = cd.decode(student, [question], rule=cad, **shape)
print(f"passes: {baseline.nfe[0]}, with CAD {adaptive.nfe[0]}, distilled {distilled.nfe[0]}")
distilled

# %% [markdown]
# ## What it bought
#
# One problem shows little. Here are test problems (none of their chains of operations is in the
# training data), over thresholds:

# %%
import dataclasses

from IPython.display import Image

from cd4lm_jax.evaluation.report import plots
from cd4lm_jax.evaluation.report.table import print_table
from cd4lm_jax.evaluation.runs.run import execute
from cd4lm_jax.evaluation.tasks import registry

problems = registry.task("gsm_mini").problems(split="test", count=PROBLEMS)
config = cd.DecodeConfig(**shape, batch_size=16)
first = execute(teacher, "teacher", problems, config.fixed())
rules = [cd.ConfidenceAdaptive(threshold=threshold) for threshold in THRESHOLDS]
sweep = [
    execute(model, who, problems, dataclasses.replace(config, rule=rule))
    for who, model in {"teacher": teacher, "student": student}.items()
    for rule in rules
]
rows = [run.row(baseline_seconds=first.seconds) for run in (first, *sweep)]
print_table(rows)

# %%
Image(plots.pareto_png(rows))

# %% [markdown]
# Up and to the left is better: the student's curve has the teacher's accuracy at fewer passes. NFE
# counts forward passes, TPF tokens a pass; speed-up is wall clock against the baseline, in this
# process.
#
# From here:
#
# * `make demo` runs the same on 500 problems, chooses the threshold on validation problems and
#   writes a report; the README has its numbers, and what DSCD's own share in them is.
# * [Evaluate a checkpoint](evaluate_a_checkpoint.ipynb): is a difference more than chance?
# * [Write your own commit rule](your_own_commit_rule.ipynb): CAD is ten lines; yours may be better.
# * LLaDA-8B: the same functions with a folder of its weights.
