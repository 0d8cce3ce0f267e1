"""docs/export-cluster.md and deploy/: run here as far as one machine goes, and compared with what they speak of."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.shell import ROOT, commands, free_port, lay_out, program, run, running, sections, surroundings
from tiler.settings import Settings

DEPLOY = ROOT / "deploy"
SECTIONS = sections((ROOT / "docs" / "export-cluster.md").read_text(encoding="utf-8"))
JOB = yaml.safe_load((DEPLOY / "kubernetes" / "export.yaml").read_text(encoding="utf-8"))
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))

# SLURM in two programs: jobs run here, each in a process group of its own. Like SLURM's, it keeps the script.
SBATCH = """cp "$1" "$HOME/job.$$"
setsid bash "$HOME/job.$$" >"$HOME/log.$$" 2>&1 &
echo "$!" >> "$HOME/jobs"; echo "Submitted batch job $!\""""
SCANCEL = 'for job in "$@"; do kill -- "-$job" 2>/dev/null; echo "$job" >> "$HOME/cancelled"; done'


def on(port: int, line: str) -> str:
    """A line of the page, on a port that is free, and with a CPU in the GPU's place."""
    assert "8786" in line
    return line.replace("8786", str(port)).replace("--device cuda ", "")


@pytest.fixture
def place(tmp_path: Path) -> tuple[Path, dict[str, str], bytes]:
    """A folder, an environment, and what the export makes on threads."""
    folder, environment = tmp_path / "work", surroundings(tmp_path / "home")
    environment["HOME"] = str(tmp_path / "home")
    # Both measure which runtime is the faster; with one of them alone there is nothing to choose.
    environment["TILER_RUNTIME"] = "onnxruntime"
    lay_out(folder)
    run("tiler export scene.tif --model models/landcover -o threads.tif --no-register", folder, environment)
    return folder, environment, (folder / "threads.tif").read_bytes()


@pytest.mark.slow
def test_two_workers_make_the_same_file(place: tuple[Path, dict[str, str], bytes]) -> None:
    pytest.importorskip("distributed")
    folder, environment, whole = place
    port = free_port()
    scheduler, workers, export = (on(port, line) for line in commands(SECTIONS["Two workers on one machine"]))
    with running([scheduler, workers], folder, environment):
        wait(port, 2, folder, environment)
        run(export, folder, environment)
    assert (folder / "landcover.tif").read_bytes() == whole


@pytest.mark.slow
def test_workers_with_tickets_make_the_same_file(place: tuple[Path, dict[str, str], bytes]) -> None:
    pytest.importorskip("distributed")
    folder, environment, whole = place
    port = free_port()
    (scheduler, *_), (*workers, export) = (commands(SECTIONS[name]) for name in ("Two workers on one machine", "GPUs"))
    assert all("CUDA_VISIBLE_DEVICES" in line for line in workers) and "--device cuda" in export
    with running([on(port, line) for line in (scheduler, *workers)], folder, environment):
        wait(port, 2, folder, environment)
        run(on(port, export), folder, environment)
    assert (folder / "landcover.tif").read_bytes() == whole


@pytest.mark.slow
def test_the_slurm_script_starts_jobs_exports_and_ends_them(place: tuple[Path, dict[str, str], bytes]) -> None:
    pytest.importorskip("dask_jobqueue")
    folder, environment, whole = place
    programs = folder.parent / "home" / "bin"
    program(programs / "sbatch", SBATCH)
    program(programs / "scancel", SCANCEL)
    shown, export = (line.replace("deploy/", f"{DEPLOY}/") for line in commands(SECTIONS["SLURM"]))
    export = export.replace(" -- ", " --patience 120 -- ")
    script = run(shown, folder, environment)
    assert "#SBATCH --mem=2G" in script and "#SBATCH -t 00:20:00" in script and "export GDAL_CACHEMAX=128" in script
    gpu = run(shown.replace("--print", "--gpu --print"), folder, environment)
    assert "--gres=gpu:1" in gpu and "--resources GPU=2" in gpu
    run(export, folder, environment)
    assert (folder / "landcover.tif").read_bytes() == whole
    jobs, cancelled = (set((folder.parent / "home" / name).read_text().split()) for name in ("jobs", "cancelled"))
    assert len(jobs) == 2 and cancelled == jobs
    # What the export says of itself is what the script ends with.
    line = export.replace("scene.tif", "nothing.tif").replace("--jobs 2", "--jobs 1")
    run(line, folder, environment, expect=2)


@pytest.mark.slow
def test_the_commands_of_the_manifest_export(place: tuple[Path, dict[str, str], bytes]) -> None:
    """As their containers would run them, one worker in the place of four."""
    pytest.importorskip("distributed")
    folder, environment, _ = place
    (folder / "scenes").mkdir()
    (folder / "results").mkdir()
    (folder / "scene.tif").rename(folder / "scenes" / "scene.tif")
    # Where a scene lies is part of its revision.
    run(
        "tiler export scenes/scene.tif -m models/landcover -o threads.tif --overwrite --no-register",
        folder,
        environment,
    )
    whole = (folder / "threads.tif").read_bytes()
    port = free_port()
    environment["DASK_SCHEDULER_ADDRESS"] = f"tcp://127.0.0.1:{port}"
    spec = JOB["spec"]["cluster"]["spec"]
    scheduler, worker = (spec[name]["spec"]["containers"][0] for name in ("scheduler", "worker"))
    start = f"{shlex.join(scheduler['command'] + scheduler['args'])} --port {port} --no-dashboard"
    work = shlex.join(worker["command"] + worker["args"]).replace("'$(DASK_WORKER_NAME)'", "one")
    (job,) = JOB["spec"]["job"]["spec"]["containers"]
    assert spec["worker"]["replicas"] == 4 and "wait_for_workers(4," in job["args"][0]
    words = [*job["command"], job["args"][0].replace("wait_for_workers(4,", "wait_for_workers(1,")]
    work = work.replace(" --dashboard --dashboard-address 8788", " --no-dashboard")
    with running([start, work], folder, environment):
        said = run(shlex.join(words), folder, environment)
    assert '"event": "finished"' in said
    assert (folder / "results" / "landcover.tif").read_bytes() == whole


def wait(port: int, workers: int, folder: Path, environment: dict[str, str]) -> None:
    run(
        'python -c "from dask.distributed import Client; '
        f"Client('tcp://127.0.0.1:{port}', timeout=60).wait_for_workers({workers}, timeout=60)\"",
        folder, environment,
    )  # fmt: skip


def test_the_manifest_is_what_the_operator_makes_but_for_our_commands() -> None:
    operator = pytest.importorskip("dask_kubernetes.operator")
    made = dict(leaves(operator.make_cluster_spec("export", image="titiler-inference:cpu", n_workers=4)["spec"]))
    ours = dict(leaves(JOB["spec"]["cluster"]["spec"]))
    for name, value in made.items():
        if value is not None and not name.endswith(("/args", "/idleTimeout")) and "readinessProbe" not in name:
            assert ours[name] == value, name


def leaves(value: Any, name: str = "") -> Any:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, f"{name}/{key}")
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for at, item in enumerate(value):
            yield from leaves(item, f"{name}/{at}")
    else:
        yield name, value


def test_all_pods_see_the_same_folder_in_the_same_place() -> None:
    spec = JOB["spec"]
    pods = [spec["job"]["spec"], spec["cluster"]["spec"]["worker"]["spec"]]
    seen = {
        (pod["volumes"][0]["persistentVolumeClaim"]["claimName"], pod["containers"][0]["volumeMounts"][0]["mountPath"])
        for pod in pods
    }
    assert seen == {("data", "/data")} and pods[0]["containers"][0]["workingDir"] == "/data"


# A cluster whose pod has a log at the second look, and whose export was refused.
KUBECTL = """echo "$@" >> calls
case "$1" in
  logs) [ -e looked ] || { touch looked; exit 1; }; echo '{"event": "begin"}' ;;
  get) printf 2 ;;
esac"""


@pytest.mark.slow
def test_the_script_follows_the_job_and_ends_as_it_does(tmp_path: Path) -> None:
    program(tmp_path / "kubectl", KUBECTL)
    said = run(f"sh {DEPLOY}/kubernetes/export.sh", tmp_path, {"PATH": f"{tmp_path}:{os.environ['PATH']}"}, expect=2)
    assert said == '{"event": "begin"}\n'
    calls = [line.split() for line in (tmp_path / "calls").read_text().splitlines()]
    assert [words[0] for words in calls] == ["delete", "apply", "logs", "logs", "get"]
    assert calls[1][-1] == f"{DEPLOY}/kubernetes/export.yaml"
    assert calls[0][-1] == f"{JOB['kind'].lower()}.{JOB['apiVersion'].split('/')[0]}/{JOB['metadata']['name']}"


def test_compose_speaks_of_what_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = COMPOSE["services"]["server"]
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert re.search(rf" AS {server['build']['target']}$", dockerfile, re.M)
    assert (DEPLOY / server["build"]["context"] / "Dockerfile").is_file()
    extras = set(server["build"]["args"]["EXTRAS"].split(","))
    assert "ARG EXTRAS=" in dockerfile and extras <= set(extras_of_the_project())
    # Empty words are those of whoever sets nothing; the file is the one that is mounted.
    for name, value in server["environment"].items():
        text = re.sub(r"\$\{\w+:-\}", "", value)
        monkeypatch.setenv(name, str(DEPLOY / "tiler.yaml") if name == "TILER_CONFIG" else text)
    settings = Settings()
    assert (
        settings.default_pair == ("field", "landcover") and not settings.shared_cache_url and not settings.export_token
    )
    mounted = [volume.split("}")[-1].split(":")[-2:] for volume in server["volumes"] if volume.endswith(":ro")]
    assert ["/etc/tiler.yaml", "ro"] in mounted and ["/data", "ro"] in mounted
    home = re.search(r"WORKDIR (\S+)", dockerfile[dockerfile.index("USER tiler") :])
    assert (
        home and f"state:{home[1]}/state" in server["volumes"] and str(settings.exports).startswith(f"{home[1]}/state/")
    )


def extras_of_the_project() -> dict[str, Any]:
    import tomllib

    found: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    return found
