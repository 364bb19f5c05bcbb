# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Evaluate a checkpoint
#
# How fast is a model, at what accuracy, and is the difference to another more than chance? Here for
# the bundled teacher; for your model, change the parameters: a folder that training exported
# (orbax), or a LLaDA or Dream folder as it comes from Hugging Face.

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
CHECKPOINT = "experiments/checkpoints/gsm_mini_teacher"
DTYPE = "float32"  # bfloat16 for LLaDA-8B on an accelerator
TASK = "gsm_mini"  # gsm8k, math500, humaneval, mbpp
SETTING = "demo"  # cd4lm or llada: prompt and lengths as those papers have them
SOURCE = None  # a JSONL file of problems; None for the task's default source
CHOOSE_ON, REPORT_ON = "validation", "test"  # splits
PROBLEMS = 200  # of each
THRESHOLDS = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98)
OUTPUT = "runs/evaluation"

# %% [markdown]
# ## Load and ask

# %%
import cd4lm_jax as cd
from cd4lm_jax.evaluation.tasks import registry

model = cd.load(CHECKPOINT, dtype=DTYPE)
print(f"{model.transformer.config.num_parameters:,} parameters")

task = registry.task(TASK)
setting = task.setting(SETTING)
choose_on = task.problems(SOURCE, CHOOSE_ON, PROBLEMS)
report_on = task.problems(SOURCE, REPORT_ON, PROBLEMS)
print(setting)

# %%
answer = cd.decode(
    model,
    [setting.ask(choose_on[0])],
    setting.decode,
    rule=cd.ConfidenceAdaptive(threshold=0.9),
)
answer

# %% [markdown]
# ## Sweep the threshold
#
# The baseline commits one token a pass. Confidence-adaptive decoding commits every token
# whose confidence reaches a threshold: lower is faster and less careful. Thresholds are traced, so
# the sweep compiles once.

# %%
import dataclasses

from IPython.display import Image

from cd4lm_jax.evaluation.report import plots
from cd4lm_jax.evaluation.report.table import print_table
from cd4lm_jax.evaluation.runs.run import execute


def evaluate(threshold, problems):
    """All problems at a threshold, judged; None for the fixed-step baseline."""
    rule = cd.ConfidenceAdaptive(threshold=threshold or 1.0)
    config = dataclasses.replace(setting.decode, rule=rule)
    config = config.fixed() if threshold is None else config
    asked, _ = registry.asked(model, problems, setting, gen_length=config.gen_length)
    return execute(model, "model", asked, config, task.judge())


baseline = evaluate(None, choose_on)
sweep = [evaluate(threshold, choose_on) for threshold in THRESHOLDS]
rows = [run.row(baseline.seconds) for run in (baseline, *sweep)]
print_table(rows)

# %% [markdown]
# NFE: forward passes a problem. TPF: tokens before the end of the answer, a pass. Canvas TPF: all
# generated positions a pass, as some papers count. TPS: tokens a second. Speed-up: wall clock
# against the baseline in the same process. Compare none of them across papers without asking how it
# was counted.
#
# ## The frontier
#
# A setting is useful if no other has both fewer passes and higher accuracy. Of those we take the
# fastest that is not below the baseline, *on validation problems*: if it were chosen on the
# problems that are then reported, the best of many would seem better than it is.

# %%
from cd4lm_jax.evaluation.statistics import frontier

points = [frontier.Point.from_row(row) for row in rows]
for point in frontier.pareto(points):
    print(f"{point.accuracy:6.1%} in {point.nfe:4.1f} passes  {point.name}")
best = frontier.choose(points[1:], floor=baseline.accuracy)
of_run = {run.name: threshold for run, threshold in zip(sweep, THRESHOLDS, strict=True)}
threshold = of_run[best.name] if best else max(THRESHOLDS)
print(f"chosen: {threshold}" if best else f"chosen: {threshold}, though none is as good")

# %%
Image(plots.pareto_png(rows, chosen=best.name if best else None))

# %% [markdown]
# ## Is the difference more than chance?
#
# Now once on other problems: `benchmark` writes a line a problem as it goes, and continues when it
# is started again. Both runs answer the same problems, so only problems that one of them alone
# answers correctly distinguish the two. McNemar's test says how often a fair coin would divide
# those as unevenly; the interval says how large the difference may be.

# %%
from cd4lm_jax.evaluation.benchmark import BenchmarkConfig, benchmark

summary = benchmark(
    BenchmarkConfig(
        output=OUTPUT,
        model=CHECKPOINT,
        placement=cd.Placement(dtype=DTYPE),
        task=TASK,
        setting=SETTING,
        source=SOURCE,
        split=REPORT_ON,
        problems=PROBLEMS,
        thresholds=(threshold,),
        baseline=True,
    )
)
print_table(summary["rows"])

# %%
from cd4lm_jax.evaluation.runs.pairs import read_pair
from cd4lm_jax.evaluation.statistics import bootstrap
from cd4lm_jax.evaluation.statistics.comparison import compare

fixed_name, adaptive_name = (f"{OUTPUT}/runs/{row['name']}" for row in summary["rows"])
adaptive, fixed = read_pair(adaptive_name, fixed_name)
verdict = compare(adaptive.correct, fixed.correct)
print(verdict)
for margin in (0.02, 0.05):
    print(verdict.verdict(margin, "CAD", "the baseline"))

passes = bootstrap.paired_ratio(adaptive.nfe, fixed.nfe)
print(f"passes: {passes.value:.3f} times as many [{passes.low:.3f}, {passes.high:.3f}]")

# %% [markdown]
# A large p-value is no proof of equality: on few problems nothing is ever significant. "As good as
# the baseline" is what a match says: the whole interval is above minus a margin that *you* have
# to name. If it is not shown at the margin you need, evaluate on more problems. And an interval of
# no width says that no problem distinguished the two, not that they are the same: about 3 in N
# problems may still differ, 1.5 % of 200. Name no margin below that.
#
# ## What went wrong
#
# The report has all problems, the wrong ones first, each with both decodes beside each other, pass
# by pass. Find the first token that is wrong, and its confidence.

# %%
import pathlib

from IPython.display import HTML

from cd4lm_jax.replay.page import frame

HTML(frame((pathlib.Path(OUTPUT) / "report.html").read_text(), height=900))

# %% [markdown]
# From here: `cd4lm evaluate` does all of this in one command, for a benchmark or for a teacher and
# its student. `cd4lm frontier` overlays several evaluations and published figures, and
# `cd4lm lm_eval` runs the model in lm-evaluation-harness. [Write your own commit
# rule](your_own_commit_rule.ipynb) to compare another rule with CAD.
