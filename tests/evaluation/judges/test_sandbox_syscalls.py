from __future__ import annotations

import ctypes

import pytest

from cd4lm_jax.evaluation.judges import sandbox_syscalls


def test_the_numbers_of_the_filter_are_those_of_libseccomp() -> None:
    try:
        library = ctypes.CDLL("libseccomp.so.2")
    except OSError:
        pytest.skip("needs libseccomp")
    for column, architecture in enumerate((0xC000003E, 0xC00000B7)):
        for name, row in (sandbox_syscalls.REFUSED | sandbox_syscalls.CONDITIONAL).items():
            number = library.seccomp_syscall_resolve_name_arch(
                ctypes.c_uint32(architecture), name.encode()
            )
            assert row[column] == (number if number >= 0 else None), name


@pytest.mark.parametrize("one_process", [True, False])
@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_every_jump_of_the_filter_stays_within_it(machine: str, one_process: bool) -> None:
    program = sandbox_syscalls.build(machine, one_process=one_process)
    assert len(program) < 4096  # the kernel's limit
    for place, (code, then, otherwise, _) in enumerate(program):
        assert max(then, otherwise) < 256
        if code != 0x06:
            assert place + 1 + max(then, otherwise) < len(program)
    assert program[-1][0] == 0x06
    with pytest.raises(OSError, match="x86_64 and aarch64"):
        sandbox_syscalls.build("riscv64", one_process=one_process)
