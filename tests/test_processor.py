"""What ``/proc/cpuinfo`` tells of a processor."""

import platform
from pathlib import Path

import pytest

from adarelu_sweep.benchmarking.processor import bf16_in, has_bf16

EPYC = """processor\t: 0
model name\t: AMD EPYC
flags\t\t: fpu sse2 avx2 vaes
bugs\t\t: sysret_ss_attrs

"""
SAPPHIRE = """processor\t: 0
model name\t: Intel(R) Xeon(R) Platinum 8480+
flags\t\t: fpu avx512f avx512_bf16 amx_bf16 amx_tile
vmx flags\t: vnmi

"""
NEOVERSE = """processor\t: 0
BogoMIPS\t: 2100.00
Features\t: fp asimd svebf16 i8mm bf16
CPU part\t: 0xd4f

"""


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (EPYC, False),
        (EPYC * 2, False),
        (EPYC.replace("vaes", "avx512_bf16"), True),
        (SAPPHIRE, True),
        (SAPPHIRE.replace("avx512_bf16 amx_bf16", "").replace("vnmi", "amx_bf16"), False),
        (NEOVERSE, True),
        (NEOVERSE.replace(" bf16", ""), False),
        (NEOVERSE + NEOVERSE.replace(" bf16", ""), False),
        ("processor\t: 0\ncpu\t\t: POWER10\n", None),
        ("", None),
    ],
)
def test_bf16_stands_among_the_features(told: str, expected: bool | None) -> None:
    assert bf16_in(told) is expected


def test_this_processor_is_known_where_linux_tells_of_it() -> None:
    is_known = platform.machine() in {"x86_64", "aarch64"} and Path("/proc/cpuinfo").exists()
    assert (has_bf16() is not None) == is_known
