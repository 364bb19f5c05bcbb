from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from cd4lm_jax.runtime.interrupt import Interrupted, leaving_at_once, stop_requests
from tests.conftest import ROOT


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_noted_and_told(
    number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(number)
    with stop_requests() as request:
        assert request.number == 0
        os.kill(os.getpid(), number)
        assert request.number == number
    assert signal.getsignal(number) is before
    assert f"{number.name}: saving a checkpoint after this step" in capsys.readouterr().err


@pytest.mark.parametrize(("second", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_second_signal_leaves_at_once(
    second: int, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without the clean-up of sys.exit, which would wait for a save that is under way.
    monkeypatch.setattr(os, "_exit", sys.exit)
    with pytest.raises(SystemExit) as left, stop_requests():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), second)
    assert left.value.code == code


def test_outside_the_main_thread_signals_stay_as_they_were() -> None:
    seen: list[object] = []

    def work() -> None:
        with stop_requests():
            seen.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


def test_saved_and_stopped_has_codes_of_its_own() -> None:
    assert Interrupted(signal.SIGTERM, "stopped").exit_code == 75
    assert Interrupted(signal.SIGINT, "stopped").exit_code == 130
    assert str(Interrupted(signal.SIGTERM, "stopped")) == "SIGTERM: stopped"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_work_that_is_kept_as_it_goes_leaves_at_once(number: int, code: int) -> None:
    # Meanwhile the main thread is in compiled code that never comes back: a lock taken twice.
    program = (
        "import ctypes, os, threading\n"
        "from cd4lm_jax.runtime.interrupt import leaving_at_once\n"
        "with leaving_at_once('all is kept'):\n"
        "    print('answered', end='')\n"
        f"    threading.Timer(0.5, os.kill, (os.getpid(), {int(number)})).start()\n"
        "    lock = ctypes.create_string_buffer(64)\n"
        "    for _ in range(2):\n"
        "        ctypes.CDLL(None).pthread_mutex_lock(lock)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, timeout=60
    )
    assert (done.returncode, done.stdout) == (code, "answered")
    assert done.stderr == f"\n{signal.Signals(number).name}: all is kept\n"


def test_after_it_signals_do_what_they_did_before() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with leaving_at_once("all is kept"):
        assert signal.getsignal(signal.SIGTERM) is not before[0]
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
    assert signal.set_wakeup_fd(-1) == -1
