"""What one process can check; tests/distillation/test_hosts.py has two."""

from __future__ import annotations

import os

import jax
import pytest

from cd4lm_jax.runtime import cluster
from cd4lm_jax.runtime.cluster import ClusterConfig, ClusterError
from cd4lm_jax.runtime.mesh import MeshConfig, make_mesh


@pytest.fixture(autouse=True)
def before_jax_looked_for_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a command; in this process other tests have used jax already."""
    monkeypatch.setattr("jax._src.xla_bridge.backends_are_initialized", lambda: False)
    for name in [name for name in os.environ if name.startswith(("SLURM_", "KUBERNETES_"))]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize("config", [ClusterConfig(), ClusterConfig(num_processes=1)])
def test_on_one_host_nothing_is_started(config: ClusterConfig) -> None:
    with cluster.joined(config):
        assert not jax.distributed.is_initialized()
        assert cluster.is_main()
        assert cluster.from_main("/some/path") == "/some/path"
        cluster.wait_for_all("nobody")
    with pytest.raises(SystemExit, match="3"):
        cluster.leave(3)


def test_where_jax_is_in_use_already_this_host_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jax._src.xla_bridge.backends_are_initialized", lambda: True)
    with cluster.joined():
        assert cluster.is_main()
    given = ClusterConfig(coordinator_address="a:1")
    with pytest.raises(ClusterError, match="cannot join a cluster"), cluster.joined(given):
        pass


def test_finds_slurm_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    slurm = {"JOB_ID": "7", "STEP_NODELIST": "a[1-2]", "NTASKS": "2", "PROCID": "5", "LOCALID": "0"}
    for name, value in slurm.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    # Process 5 of 2 goes no further than jax's own check.
    with pytest.raises(ClusterError, match="process_id=5, num_processes=2"), cluster.joined():
        pass
    with cluster.joined(ClusterConfig(num_processes=1)):
        assert not jax.distributed.is_initialized()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (ClusterConfig(num_processes=2), "cannot join a cluster: coordinator_address should be"),
        (ClusterConfig(coordinator_address="a:1"), "Number of processes must be defined"),
        (
            ClusterConfig(coordinator_address="a:1", num_processes=2, process_id=2),
            "process_id=2, num_processes=2.* or num_processes=1 to run on this host alone",
        ),
    ],
)
def test_settings_that_do_not_fit_are_named(config: ClusterConfig, message: str) -> None:
    with pytest.raises(ClusterError, match=message), cluster.joined(config):
        pass


def test_a_timeout_that_slow_hosts_would_miss() -> None:
    with pytest.raises(ClusterError, match="timeout=1 s; give 5 or more"):
        ClusterConfig(timeout=1)


def test_one_host_agrees_with_itself_at_once() -> None:
    said = [0]
    agreement = cluster.Agreement(lambda: said[0], make_mesh(MeshConfig(), jax.devices()[:1]))
    agreement.ask()
    said[0] = 15
    assert agreement.answer() == 15
