"""The battery for a machine with a GPU: its rehearsal on a CPU, and the folder that carries it there."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STAGES = ("tests", "path", "eager", "workers", "memory", "darts", "syncs", "fashion")
PACK = ROOT / "benchmarks" / "pack_gpu.py"


def battery(*arguments: object, timeout: float = 560) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=timeout)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(600)
def test_every_stage_runs_to_its_end_in_miniature(tmp_path: Path) -> None:
    done = battery("--miniature", "--out", tmp_path)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert done.stdout.count("prove nothing of a GPU") >= 2, "at the begin and at the end"
    for name in STAGES:
        content = json.loads((tmp_path / f"{name}.json").read_text())
        assert content["complete"] and content["rows"] and content["miniature"], name
        assert content["machine"]["gpu"] is None and "prove nothing" in content["warning"]
    rows = {name: json.loads((tmp_path / f"{name}.json").read_text())["rows"] for name in STAGES}
    assert rows["tests"]["gpu"]["failures"] == rows["tests"]["gpu"]["errors"] == 0 < rows["tests"]["gpu"]["tests"]
    assert rows["path"]["search"]["counts"]["finished"] == 2 and rows["path"]["retrain"]["networks"]
    sides = {"ours", "ours_with_cuda_graphs", "ours_with_cudnn_benchmark", "ours_with_fused_sgd", "plain", "fast"}
    assert {key.split("/")[1] for key in rows["eager"]} >= sides
    assert all(row["counts"]["failed"] == 0 for row in rows["workers"].values())
    assert not any("error" in row for row in rows["darts"].values())
    assert all(row["waits_per_step"] is None for row in rows["syncs"].values()), "a CPU is never waited for"
    assert {row["epochs_done"] for row in rows["fashion"].values()} == {2}
    before = (tmp_path / "eager.json").read_bytes()
    assert battery("--miniature", "--out", tmp_path).returncode == 0
    assert (tmp_path / "eager.json").read_bytes() == before, "what is complete is not measured again"


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_stage_without_time_keeps_its_figures_and_continues(tmp_path: Path) -> None:
    first = battery("syncs", "--miniature", "--out", tmp_path, "--limit", 0.01)
    content = json.loads((tmp_path / "syncs.json").read_text())
    assert first.returncode == 3 and not content["complete"] and content["ended_by"] == "time"
    content["rows"]["plain"] = {"measured": "earlier"}
    (tmp_path / "syncs.json").write_text(json.dumps(content))
    assert battery("syncs", "--miniature", "--out", tmp_path).returncode == 0
    content = json.loads((tmp_path / "syncs.json").read_text())
    assert content["complete"] and "ended_by" not in content
    assert content["rows"]["plain"] == {"measured": "earlier"} and "randaugment" in content["rows"]


def test_the_searched_network_is_that_of_the_last_whole_run_of_its_class(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    runs = json.loads((ROOT / "benchmarks" / "results" / "fashion_proof.json").read_text())["runs"]
    *_, finalist = (row["finalists"][0] for title, row in runs.items() if title.startswith("large, "))
    runs["large, interrupted"] = {"finalists": []}
    runs["small, later"] = next(row for title, row in runs.items() if title.startswith("small, "))
    file = tmp_path / "fashion_proof.json"
    file.write_text(json.dumps({"runs": runs}))
    network = runpy.run_path(str(ROOT / "benchmarks" / "gpu.py"))["searched_network"](file, 1, 10)
    params = sum(parameter.numel() for parameter in network.parameters())
    assert params == finalist["retrained"]["costs"]["cost/params"]


def test_mps_runs_for_the_workers_alone(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    calls = tmp_path / "calls"
    control = tmp_path / "nvidia-cuda-mps-control"
    control.write_text(f'#!/bin/sh\necho "$1 $CUDA_MPS_PIPE_DIRECTORY" >> {calls}\n[ -n "$1" ] || cat >> {calls}\n')
    control.chmod(0o755)
    monkeypatch.delenv("CUDA_MPS_PIPE_DIRECTORY", raising=False)
    mps = runpy.run_path(str(ROOT / "benchmarks" / "gpu.py"))["mps"]
    with pytest.raises(ValueError, match="a trial"), mps(str(control), tmp_path / "mps"):
        assert os.environ["CUDA_MPS_PIPE_DIRECTORY"] == str(tmp_path / "mps")
        raise ValueError("a trial")
    assert calls.read_text().splitlines() == [f"-d {tmp_path / 'mps'}", f" {tmp_path / 'mps'}", "quit"]
    assert "CUDA_MPS_PIPE_DIRECTORY" not in os.environ


@pytest.fixture(scope="module")
def packing() -> dict[str, object]:
    return runpy.run_path(str(PACK))


def test_a_pack_arrives_whole_in_small_pieces(tmp_path: Path, packing) -> None:
    files = []
    for name, size in (("a.whl", 70_000), ("b.npz", 3), ("empty.gz", 0), ("c.npz", 41_000)):
        files.append(tmp_path / name)
        files[-1].write_bytes(os.urandom(size))
    limit = PACK.stat().st_size + 20_000
    pieces = packing["pack"](files, tmp_path / "pack", limit)
    folders = sorted((tmp_path / "pack").iterdir())
    assert len(folders) == pieces > 2
    assert all(sum(file.stat().st_size for file in folder.iterdir()) <= limit for folder in folders)
    joined = packing["join"](tmp_path / "pack", tmp_path / "there")
    assert [file.read_bytes() for file in joined] == [file.read_bytes() for file in files]


def test_a_pack_that_is_incomplete_or_damaged_says_what_to_carry(tmp_path: Path, packing) -> None:
    file = tmp_path / "data.npz"
    file.write_bytes(os.urandom(60_000))
    packing["pack"]([file], tmp_path / "pack", PACK.stat().st_size + 20_000)
    last = max((tmp_path / "pack").iterdir())
    cut = next(last.iterdir())
    content = cut.read_bytes()
    cut.write_bytes(b"?" + content[1:])
    with pytest.raises(SystemExit, match=f"data.npz arrived damaged: carry .*{last.name}"):
        packing["join"](tmp_path / "pack", tmp_path / "there")
    cut.unlink()
    with pytest.raises(SystemExit, match=f"lacks {last.name} of"):
        packing["join"](tmp_path / "pack", tmp_path / "there")
    with pytest.raises(SystemExit, match="carry piece-000 too"):
        packing["join"](tmp_path / "nothing", tmp_path / "there")


def test_wheels_are_those_that_the_other_machine_lacks(tmp_path: Path, packing) -> None:
    listed = tmp_path / "there.txt"
    listed.write_text("# pip list\nTorch==2.11.0+cu130\ntyping_extensions==99.0\nscikit-learn @ file:///x\n")
    present = packing["installed_in"](listed)
    assert present == {"torch": "2.11.0+cu130", "typing-extensions": "99.0", "scikit-learn": None}
    chosen = {
        line.partition("==")[0].lower() for line in packing["needed"](present, ["pydantic>=2", "torch", "mlflow"])
    }
    assert {"pydantic", "pydantic_core", "annotated-types"} <= chosen | {name.replace("-", "_") for name in chosen}
    assert not chosen & {"torch", "mlflow", "typing_extensions", "typing-extensions"}
    old = {**present, "pillow": "1.0"}
    assert [line.partition("==")[0].lower() for line in packing["needed"](old, ["pillow>=13"])] == ["pillow"]
