"""What the CPU is called and whether it multiplies bfloat16 in hardware; without that, bf16 is slower than fp32."""

from __future__ import annotations

import platform
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
# x86 and ARM words for the same ability.
_BF16 = frozenset({"amx_bf16", "avx512_bf16", "bf16"})


def flags(cpuinfo: Path = _CPUINFO) -> frozenset[str]:
    """Return the first core's feature flags; none where the system does not tell them (macOS, Windows)."""
    return frozenset((_field(cpuinfo, "flags") or _field(cpuinfo, "Features")).split())


def has_bf16(cpuinfo: Path = _CPUINFO) -> bool:
    """Whether bfloat16 pays on this CPU: AMX, AVX512-BF16, or BF16 on ARM."""
    return bool(_BF16 & flags(cpuinfo))


def name(cpuinfo: Path = _CPUINFO) -> str:
    """Return the CPU's model name and its bf16 abilities: what a kept measurement is valid for."""
    model = _field(cpuinfo, "model name") or platform.processor() or platform.machine()
    return " ".join([model, *sorted(_BF16 & flags(cpuinfo))])


def _field(cpuinfo: Path, key: str) -> str:
    try:
        for line in cpuinfo.read_text().splitlines():
            name, separator, value = line.partition(":")
            if separator and name.strip() == key:
                return value.strip()
    except (OSError, UnicodeDecodeError):
        pass
    return ""
