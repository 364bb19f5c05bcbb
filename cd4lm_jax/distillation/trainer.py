"""The loop around the update: data, evaluation, early stop, checkpoints, metrics.

One trainer serves the teacher's training and distillation; which it is follows from the
settings (a teacher or none, the corruption, the objective).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import math
import pathlib
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cd4lm_jax.checkpoints import peft
from cd4lm_jax.checkpoints.array_trees import DamagedError
from cd4lm_jax.checkpoints.family import HuggingFaceError
from cd4lm_jax.checkpoints.model_folder import EXPORT_FOLDER, write_model
from cd4lm_jax.checkpoints.run_checkpoints import Restored, RunCheckpoints
from cd4lm_jax.data import pipeline
from cd4lm_jax.distillation import resume
from cd4lm_jax.distillation.config import TrainConfig, TrainingError
from cd4lm_jax.distillation.evaluator import Evaluated, Evaluator
from cd4lm_jax.distillation.loading import Loaded
from cd4lm_jax.distillation.placement import placed_batch
from cd4lm_jax.distillation.selection import Point
from cd4lm_jax.distillation.state import Trained, TrainState
from cd4lm_jax.models.transformer import Transformer
from cd4lm_jax.runtime import cluster, files
from cd4lm_jax.runtime.interrupt import Interrupted, stop_requests
from cd4lm_jax.runtime.mesh import MeshConfig, make_mesh
from cd4lm_jax.runtime.metrics import Writers
from cd4lm_jax.runtime.profiling import StepTrace
from cd4lm_jax.runtime.progress import Progress
from cd4lm_jax.runtime.sharding import HostRows
from cd4lm_jax.runtime.trees import named_leaves, with_leaves
from cd4lm_jax.settings.config import config_to_json, to_plain

CONFIG_FILE = "config.json"
DATA_FILE = "data.json"
MODEL_FOLDER = EXPORT_FOLDER
ADAPTERS_FOLDER = "adapters"
PROFILE_FOLDER = "profile"
CHECKPOINTS_FOLDER = "checkpoints"
_SHOWN = ("loss", "kl", "ce")

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a run left behind.

    Attributes:
        folder: the exported model, a model folder.
        steps: updates made.
        exported_step: the step of the exported model: the best one where evaluations rank the
            steps of the run, else the last.
        exported_loss: its validation loss.
        exported_decodes: what its decodes gave at the threshold that it is judged by; None where
            steps are not judged by decoding.
    """

    folder: pathlib.Path
    steps: int
    exported_step: int
    exported_loss: float
    exported_decodes: Point | None = None


def train(config: TrainConfig, *, profile: range = range(0)) -> TrainResult:
    """Runs or continues a training run and exports its model.

    With LoRA its adapters are written too, to `adapters/` as peft reads them.

    A run whose folder holds checkpoints continues from the latest complete one, at the exact
    next batch; a damaged one is passed over with a warning. Exported is the best step by
    `TrainConfig.selection`, or the last one where nothing ranks them, see `TrainConfig.ranked`.
    On several hosts all of them call this.

    Args:
        config: the run.
        profile: numbers of the steps that are traced into `profile/`, by the main process.

    Raises:
        TrainingError: the folder holds another run, the models do not fit each other, or the loss
            stays not finite.
        InUseError: another run works in the folder.
        CheckpointError: a model that cannot be read, or a checkpoint of another shape.
        Interrupted: SIGTERM or Ctrl-C came; the state after the step is saved.
    """
    mesh = make_mesh(config.mesh)
    with jax.set_mesh(mesh):
        return _Run(config, mesh, profile).run()


class _Run:
    """One call of `train`: what is loaded once, and the loop."""

    def __init__(self, config: TrainConfig, mesh: Mesh, profile: range = range(0)) -> None:
        self.config, self.mesh, self.profile = config, mesh, profile
        self.output = pathlib.Path(config.output)
        self.loaded = Loaded(config, mesh)
        self.program = self.loaded.program
        tokenizer = self.loaded.tokenizer
        self.data = pipeline.OpenData(config.data, tokenizer, config.validation)
        held_out = pipeline.OpenData(config.validation, tokenizer)
        self.reports = {"data": self.data.report, "validation": held_out.report}
        self.evaluator = Evaluator(config, self.loaded, mesh, held_out)

    def run(self) -> TrainResult:
        config, main = self.config, cluster.is_main()
        with (
            files.locked(self.output) if main else contextlib.nullcontext(),
            RunCheckpoints(self.output / CHECKPOINTS_FOLDER) as checkpoints,
        ):
            rows = HostRows(self.mesh, config.data.batch_size)
            batches = iter(self.data.batches(rows=rows.places))
            state, evaluated = self._start(checkpoints, batches)
            if main:
                files.write_text(self.output / CONFIG_FILE, config_to_json(config))
                found = {name: report.to_json() for name, report in self.reports.items()}
                files.write_text(self.output / DATA_FILE, json.dumps(found, indent=2) + "\n")
            teacher, base = self.loaded.teacher, self.loaded.base
            label = "distill" if config.teacher else "train"
            traced = self.profile if main else range(0)
            with (
                stop_requests() as request,
                Writers(self.output if main else None, after=int(state.step)) as writers,
                Progress(config.steps, label=label, quiet=not main) as progress,
                StepTrace(self.output / PROFILE_FOLDER, traced) as trace,
            ):
                for name, report in self.reports.items():
                    progress.say(f"{name}: {report}")
                step, truncated = int(state.step), 0
                hosts = config.data.batch_size / len(rows.places)  # that read other rows
                shown: dict[str, Any] = {}
                metrics: dict[str, jax.Array] = {}
                stopping = cluster.Agreement(lambda: request.number, self.mesh)
                while step < config.steps and not self._stopped_early(evaluated):
                    stopping.ask()
                    with trace.step(step + 1):
                        read = next(batches)
                        truncated += int(read["truncated"].sum())
                        progress.count(round(int(read["valid"].sum()) * hosts))
                        batch, previous = placed_batch(read, rows), metrics
                        state, metrics = self.program.update(state, teacher, batch, base)
                    step += 1
                    trace.ended(step, metrics)
                    # Waits for the step before: at most two are in flight, so the device stays
                    # busy while rate and ETA are true.
                    skipped = self._skipped(previous, step - 1)
                    if step % config.log_every == 0 or step == config.steps:
                        writers.write(step, metrics)
                    shown |= {name: metrics[name] for name in _SHOWN if name in metrics}
                    shown |= {"skipped": skipped} if skipped or "skipped" in shown else {}
                    # Rows of this host, since it started, whose prompts lost their start.
                    shown |= {"truncated": truncated} if truncated else {}
                    evaluate = step % config.eval_every == 0 or step == config.steps
                    if evaluate:
                        judged = self.evaluator(state.model)
                        writers.write(step, judged.metrics)
                        shown |= judged.shown
                        evaluated = evaluated.after(judged.score, ranked=config.ranked)
                    stop = stopping.answer()
                    due = config.save_every and step % config.save_every == 0
                    if evaluate or due or stop:
                        checkpoints.save(
                            step,
                            named_leaves(state),
                            data_state=batches.get_state(),
                            metadata={
                                "config": to_plain(config),
                                "frozen": self.loaded.fingerprints,
                                "best": evaluated.score,
                                "stale": evaluated.stale,
                                **(judged.metadata if evaluate else {}),
                            },
                            score=judged.score if evaluate and config.ranked else None,
                        )
                    progress.update(step, shown)
                    if stop:
                        checkpoints.wait()
                        raise Interrupted(
                            stop,
                            f"stopped after step {step} of {config.steps} and saved; the same "
                            "command continues",
                        )
            return self._export(checkpoints, step)

    def _stopped_early(self, evaluated: Evaluated) -> bool:
        return bool(self.config.patience) and evaluated.stale >= self.config.patience

    def _start(self, checkpoints: RunCheckpoints, batches: Any) -> tuple[TrainState, Evaluated]:
        """The state to continue from, and what evaluations have found before."""
        while (latest := checkpoints.latest()) is not None:
            saved = checkpoints.metadata(latest)
            changes = resume.check_settings(saved["config"], self.config, latest)
            frozen = self.loaded.fingerprints
            resume.check_frozen(saved.get("frozen", {}), frozen, self.loaded.frozen_folders)
            restored = self._restore(checkpoints, latest)
            if restored is None:
                continue
            for line in changes if cluster.is_main() else ():
                _log.warning("warning: %s", line)
            batches.set_state(restored.data_state)
            state = with_leaves(self.program.state, restored.state)
            return state, self._evaluated(checkpoints, saved)
        return self.program.create(self.loaded.initial_model()), Evaluated()

    def _evaluated(self, checkpoints: RunCheckpoints, saved: dict[str, Any]) -> Evaluated:
        """What evaluations have found, by the checkpoints that are still there."""
        best = checkpoints.best() if self.config.ranked else None
        if best is None:
            return Evaluated(stale=saved["stale"])
        score = checkpoints.metadata(best)["score"]
        if score < saved["best"]:
            _log.warning(
                "warning: %s: the checkpoint of the best evaluation is gone; the best that is left "
                "is of step %d",
                self.output,
                best,
            )
        return Evaluated(score, saved["stale"])

    def _restore(self, checkpoints: RunCheckpoints, step: int) -> Restored | None:
        """The checkpoint of a step; None if it was damaged, and is renamed."""
        try:
            return checkpoints.restore(step, named_leaves(self.program.state))
        except DamagedError:
            checkpoints.set_aside(step)
            return None

    def _skipped(self, metrics: dict[str, jax.Array], step: int) -> int:
        """Updates skipped in a row up to this step; too many are an error."""
        bad = int(metrics.get("bad_steps", 0))
        if bad >= self.config.max_bad_steps:
            raise TrainingError(
                f"loss or gradient was not finite in {bad} updates in a row, up to step {step}; "
                "start again with a lower optimizer.learning_rate (now "
                f"{self.config.optimizer.learning_rate:g}), which continues from the last "
                "checkpoint, or check the data"
            )
        return bad

    def _export(self, checkpoints: RunCheckpoints, step: int) -> TrainResult:
        """Writes the parameters of the best or the last checkpoint as a model folder.

        Where that is damaged, the next best is taken; renaming it is a warning.
        """
        choose = checkpoints.best if self.config.ranked else checkpoints.latest
        while (chosen := choose()) is not None:
            restored = self._restore(checkpoints, chosen)
            if restored is not None:
                break
        else:
            raise TrainingError(
                f"{self.output}: no sound checkpoint has a finite validation loss, so there is no "
                "model to export"
            )
        state = with_leaves(self.program.state, restored.state)
        folder = self.output / MODEL_FOLDER
        self._write_merged(folder, state.model)
        if cluster.is_main():
            self.loaded.tokenizer.save(folder)
        self._export_adapters(state.model)
        # Nothing where it was saved between evaluations.
        loss, decodes = map(restored.metadata.get, ("loss", "decodes"))
        return TrainResult(
            folder=folder,
            steps=step,
            exported_step=chosen,
            exported_loss=math.nan if loss is None else loss,
            exported_decodes=Point(**decodes) if decodes else None,
        )

    def _write_merged(self, folder: pathlib.Path, trained: Trained) -> None:
        """Writes the model that was trained; of a quantised base on the host, in `teacher_dtype`.

        A device that holds a base in 8 bits has no room for the model that it makes.
        """
        config, base = self.config, self.loaded.base
        if config.quantize == "none" or base is None or self.mesh.size > 1:
            write_model(folder, config.learner.merged(trained, base))
            return
        try:
            host = jax.devices("cpu")[0]
        except RuntimeError:  # JAX_PLATFORMS leaves it out
            host = self.mesh.devices.item()
        with jax.set_mesh(make_mesh(MeshConfig(), [host])):
            trained, base = jax.device_put((trained, base), host)
            write_model(folder, config.learner.merged(trained, base, config.teacher_dtype))

    def _export_adapters(self, trained: Trained) -> None:
        """Writes adapters as peft reads them, where a published family computes their base."""
        config, base = self.config.lora, self.loaded.base
        if config is None or base is None or isinstance(trained, Transformer):
            return
        everywhere = NamedSharding(self.mesh, PartitionSpec())
        whole = jax.jit(lambda tree: tree, out_shardings=everywhere)(trained)
        if not cluster.is_main():
            return
        with contextlib.suppress(HuggingFaceError):
            folder = self.output / ADAPTERS_FOLDER
            peft.write(folder, config, whole, base.config, str(self.config.init))
