from __future__ import annotations

import pathlib
from collections.abc import Callable

import pytest
from absl.testing import flagsaver

from cd4lm_jax.checkpoints.model_folder import write_model
from cd4lm_jax.commands import common, distill, pretrain
from cd4lm_jax.distillation.config import TrainConfig
from cd4lm_jax.models.config import llada_8b
from cd4lm_jax.planning.layout import layout
from cd4lm_jax.runtime.mesh import MeshConfig, abstract_mesh
from experiments.configs import gsm_mini_block_teacher, llada_8b_gsm8k, llada_8b_lora
from tests.conftest import ROOT
from tests.tiny import tiny_model

CONFIGS = ROOT / "experiments" / "configs"
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs a command with a config of experiments/configs/: exit code, stdout, stderr."""

    def no_training(*_: object, **__: object) -> None:
        raise AssertionError("a dry run trains nothing")

    monkeypatch.setattr("cd4lm_jax.commands.training.train", no_training)
    monkeypatch.chdir(ROOT)

    def call(
        name: str, *flags: str, main: Callable[[TrainConfig], None] = distill.main
    ) -> tuple[int, str, str]:
        argv = ["launch.distill", f"--config={CONFIGS / name}", "--num_processes=1", *flags]
        with flagsaver.flagsaver(), pytest.raises(SystemExit) as raised:
            common.run(main, TrainConfig, argv)
        out, err = capsys.readouterr()
        return int(str(raised.value.code)), out, err

    return call


def test_lays_out_a_model_that_is_not_here_on_devices_that_are_not_here(command: Command) -> None:
    code, out, err = command(
        "llada_8b_gsm8k.py", "--dry_run", "--model=llada_8b", "--config.mesh.fsdp=16"
    )
    assert (code, err) == (0, "")
    lines = [" ".join(line.split()) for line in out.splitlines()]
    for line in (
        "config.optimizer.learning_rate = 5e-06",
        "config.mesh.fsdp = 16",
        "parameters: 8,015,581,184, trained: 8,015,581,184",
        "mesh: data=1 x fsdp=16 x tensor=1, 16 devices; here: 1",
        "dry run: nothing was loaded, trained or written",
    ):
        assert line in lines
    # 32 layers of 4096 x 12288, the embedding dimension over 16 devices: float32, then bfloat16.
    gate = [line for line in lines if line.startswith("blocks.gate [32, 4,096, 12,288] ")]
    size = 32 * 4096 * 12288 // 16
    assert gate == [
        f"blocks.gate [32, 4,096, 12,288] float32 P(None, fsdp, tensor) {4 * size:,}",
        f"blocks.gate [32, 4,096, 12,288] bfloat16 P(None, fsdp, tensor) {2 * size:,}",
    ]


def test_the_config_or_its_folder_tells_the_architecture(command: Command) -> None:
    code, out, _ = command("gsm_mini.py", "--dry_run", "--config.mesh.data=32")
    assert code == 0
    assert "mesh: data=32 x fsdp=1 x tensor=1, 32 devices" in out
    code, out, _ = command("gsm_mini_teacher.py", "--dry_run", main=pretrain.main)
    assert code == 0
    assert "teacher" not in [line.strip() for line in out.splitlines()]


def test_block_diffusion_is_laid_out_as_any_run_and_checked(
    command: Command, tmp_path: pathlib.Path
) -> None:
    code, out, err = command("gsm_mini_block_teacher.py", "--dry_run", main=pretrain.main)
    assert (code, err) == (0, "")
    assert "config.model.attention = 'block'" in out.splitlines()
    model = gsm_mini_block_teacher.get_config().model
    assert model is not None
    write_model(tmp_path / "teacher", tiny_model(model))
    folder = tmp_path / "teacher"
    flags = ["--dry_run", f"--config.init={folder}", f"--config.teacher={folder}"]
    for name in ("gsm_mini_block.py", "gsm_mini_block_best.py"):
        code, out, err = command(name, *flags, "--config.mesh.data=32")
        assert (code, err) == (0, "")
        assert f"parameters: {model.num_parameters:,}, trained: {model.num_parameters:,}" in out
    code, out, err = command(
        "gsm_mini_block_best.py", *flags, "--config.corruption.block_length=32"
    )
    assert (code, out) == (2, "")
    assert "by blocks of 16; give corruption.block_length=16" in err


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        (["--dry_run"], 2, "LLaDA-8B-Instruct is not there; give the model's folder, or its arch"),
        (["--model=llada_8b"], 2, "--model is for --dry_run"),
        (["--dry_run", "--model=llada_8b", "--config.mesh.fsdp=48"], 2, "batch_size 64 cannot be"),
        (
            ["--dry_run", "--model=llada_8b", "--config.mesh.fsdp=1", "--config.mesh.tensor=3"],
            2,
            "blocks.attention_out (32, 4096, 4096) cannot be split as",
        ),
        (["--profile_steps=10"], 2, "profile_steps=10; give FIRST:LAST, such as 10:15"),
        (["--profile_steps=15:10"], 2, "profile_steps=15:10"),
        (["--profile_steps=0:3"], 2, "profile_steps=0:3"),
        (["--profile_steps=1000:1051"], 2, "of the run's steps 1 to 1050"),
    ],
)
def test_what_is_wrong_is_one_line(
    command: Command, flags: list[str], code: int, said: str
) -> None:
    found, out, err = command("llada_8b_gsm8k.py", *flags)
    assert (found, out, err.count("\n")) == (code, "", 1)
    assert said in err


def test_parts_add_up() -> None:
    model = llada_8b()
    found = layout(llada_8b_gsm8k.get_config(), model, devices=16)
    assert found.devices == 16
    assert list(found.parts) == ["student", "teacher", "optimizer", "batch"]
    # Nothing but norms is held whole by every device.
    share = 4 * model.num_parameters / 16
    assert share < found.sizes["student"] < 1.01 * share
    assert found.sizes["teacher"] == found.sizes["student"] / 2
    assert abs(found.sizes["optimizer"] - 2 * found.sizes["student"]) < 100
    lora = layout(llada_8b_lora.get_config(), model, devices=16)
    assert list(lora.parts) == ["adapters", "base", "optimizer", "batch"]
    assert lora.trained == 41_943_040  # rank 16 on seven kernels of 32 layers
    assert lora.parameters == model.num_parameters


def test_an_abstract_mesh_takes_the_rest_of_what_is_said() -> None:
    mesh = abstract_mesh(MeshConfig(data=2, fsdp=-1, tensor=4), 64)
    assert dict(mesh.shape) == {"data": 2, "fsdp": 8, "tensor": 4}
    assert dict(abstract_mesh(MeshConfig(fsdp=512), 1).shape)["fsdp"] == 512
    with pytest.raises(ValueError, match="10 devices cannot be divided by 4"):
        abstract_mesh(MeshConfig(fsdp=-1, tensor=4), 10)
