"""Cores, quotas and CPU flags, read from files that look like the kernel's."""

from __future__ import annotations

from pathlib import Path

import pytest

from model_registry import threads
from model_registry.runtimes import _cpu
from model_registry.threads import Share, quota, share


def put(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


V1 = {"quota": "200000", "period": "100000"}


@pytest.mark.parametrize(
    ("cgroup", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "250000 100000\n"}, 2.5),
        ("0::/\n", {"cpu.max": "max 100000\n"}, None),
        ("0::/\n", {}, None),
        ("0::/a/b\n", {"a/cpu.max": "300000 100000", "a/b/cpu.max": "max 100000"}, 3.0),
        ("0::/a/b\n", {"a/cpu.max": "100000 100000", "a/b/cpu.max": "400000 100000"}, 1.0),
        # A container that sees the host's path, but mounts its own group at the root.
        ("0::/docker/0123\n", {"cpu.max": "150000 100000"}, 1.5),
        ("4:cpu,cpuacct:/x\n", {f"cpu,cpuacct/x/cpu.cfs_{k}_us": v for k, v in V1.items()}, 2.0),
        ("4:cpu,cpuacct:/x\n", {"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}, 0.5),
        ("1:cpu:/\n0::/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ("9:memory:/\n", {"memory/cpu.cfs_quota_us": "1", "memory/cpu.cfs_period_us": "1"}, None),
        ("0::/\n", {"cpu.max": "rubbish"}, None),
        ("", {"cpu.max": "100000 100000"}, None),
    ],
)  # fmt: skip
def test_quota(tmp_path: Path, cgroup: str, files: dict[str, str], expected: float | None):
    (tmp_path / "cgroup").write_text(cgroup)
    assert quota(tmp_path / "cgroup", put(tmp_path / "mount", files)) == expected


def test_no_cgroup_file_is_no_limit(tmp_path: Path):
    assert quota(tmp_path / "none", tmp_path) is None


@pytest.mark.parametrize(("limit", "expected"), [(None, 6), (2.0, 2), (2.9, 2), (0.5, 1), (64.0, 6)])
def test_threads_are_the_smaller_of_affinity_and_quota(monkeypatch: pytest.MonkeyPatch, limit, expected):
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    monkeypatch.setattr(threads, "quota", lambda: limit)
    assert threads.default_threads() == expected


@pytest.mark.parametrize("cores", range(1, 65))
def test_shares_never_vanish_and_the_network_gets_most(cores: int):
    got = share(cores)
    assert min(got) >= 1 and got.network <= cores and got.network >= cores / 2
    assert share(cores, readers=3, finishers=5)[1:] == (3, 5)


def test_shares_of_small_and_large_machines():
    assert share(2) == Share(network=2, readers=2, finishers=1)
    assert share(16) == Share(network=12, readers=8, finishers=8)
    assert share(0) == share(1)


CPUINFO = "processor\t: 0\nmodel name\t: Some CPU @ 2.5GHz\nflags\t\t: fpu sse {}\n\nprocessor\t: 1\nflags\t\t: fpu\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (CPUINFO.format("avx2 avx512f"), False),
        (CPUINFO.format("avx512_bf16"), True),
        (CPUINFO.format("amx_tile amx_bf16"), True),
        (CPUINFO.format("avx512_bf16_not_really"), False),
        ("processor\t: 0\nFeatures\t: fp asimd bf16\n", True),
        ("", False),
    ],
)
def test_bf16_is_read_from_the_flags(tmp_path: Path, text: str, expected: bool):
    file = tmp_path / "cpuinfo"
    file.write_text(text)
    assert _cpu.has_bf16(file) is expected
    assert not _cpu.has_bf16(tmp_path / "none") and _cpu.flags(tmp_path / "none") == frozenset()


def test_the_name_tells_abilities_apart(tmp_path: Path):
    file = tmp_path / "cpuinfo"
    file.write_text(CPUINFO.format("avx512_bf16"))
    assert _cpu.name(file) == "Some CPU @ 2.5GHz avx512_bf16"
