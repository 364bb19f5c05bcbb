from __future__ import annotations

import json
import pathlib

import pytest

from cd4lm_jax.commands import common, demo

pytestmark = pytest.mark.slow

TINY = (
    "--config.distill.steps=2",
    "--config.distill.optimizer.warmup_steps=1",
    "--config.distill.data.batch_size=4",
    "--config.distill.eval_every=2",
    "--config.best.steps=2",
    "--config.best.optimizer.warmup_steps=1",
    "--config.best.data.batch_size=4",
    "--config.best.eval_every=2",
    "--config.evaluate.problems=4",
    "--config.evaluate.selection_problems=4",
    "--config.evaluate.thresholds=0.5,0.9",
    "--config.evaluate.teacher_tokens=1,4",
    "--config.evaluate.decode.batch_size=4",
)


def test_the_demo_distils_evaluates_and_reports(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(pathlib.Path(__file__).parents[2])  # where the bundled teacher is
    paths = (
        f"--config.distill.output={tmp_path}/student",
        f"--config.best.output={tmp_path}/best",
        f"--config.evaluate.output={tmp_path}",
        f"--config.evaluate.student={tmp_path}/student/model",
        f"--config.evaluate.best={tmp_path}/best/model",
        f"--config.evaluate.training={tmp_path}/student",
    )
    with pytest.raises(SystemExit) as exit_:
        common.run(demo.main, demo.DemoConfig, argv=["demo", *TINY, *paths])
    assert exit_.value.code == 0
    printed = capsys.readouterr().out
    assert "teacher fixed:1" in printed
    assert f"all 10 rows, and every decode to replay: {tmp_path}/report.html" in printed
    assert "test problems right in" in printed
    _, _, table = printed.partition("name")
    assert 3 <= table.count("fixed:") + table.count("confidence:") - 2 <= 2 * 5 + 2

    summary = json.loads((tmp_path / "summary.json").read_text())
    commits = [(row["model"], row["rule"]) for row in summary["rows"]]
    assert commits == [
        ("teacher", "fixed:1"),
        ("teacher", "fixed:4"),
        ("student", "fixed:4"),
        ("best", "fixed:4"),
        ("teacher", "confidence:0.5"),
        ("teacher", "confidence:0.9"),
        ("student", "confidence:0.5"),
        ("student", "confidence:0.9"),
        ("best", "confidence:0.5"),
        ("best", "confidence:0.9"),
    ]
    assert summary["rows"][0]["speedup"] == 1.0
    assert summary["rows"][0]["nfe"] == summary["gen_length"]
    for name in ("report.html", "pareto.png", "training.png", "student/metrics.jsonl"):
        assert (tmp_path / name).stat().st_size > 0
