"""Two processes on this machine, as torchrun starts them, connected by gloo."""

import csv
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).with_name("train_in_two.py")


def torchrun(purpose: str, data: Path, output: Path) -> subprocess.CompletedProcess[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launcher, str(SCRIPT), purpose, str(data), str(output)]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)


@pytest.fixture(scope="module")
def killed(drawn_voc: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A run whose second process was killed."""
    output = tmp_path_factory.mktemp("runs")
    return output, torchrun("die", drawn_voc, output)


@pytest.fixture(scope="module")
def runs(drawn_voc: Path, killed: tuple[Path, subprocess.CompletedProcess[str]]) -> Path:
    """A folder of runs: the killed one, resumed; it unbroken; with fixed batch norm one, and one with a teacher."""
    finished = torchrun("train", drawn_voc, killed[0])
    assert finished.returncode == 0, finished.stderr
    assert finished.stderr.count("12 pictures to learn from") == 4, "only the first process prints"
    return killed[0]


def losses(output: Path) -> list[float]:
    return [float(row["loss"]) for row in csv.DictReader((output / "results.csv").read_text().splitlines())]


def test_a_process_that_is_killed_ends_the_run_and_is_named(
    killed: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    assert killed[1].returncode != 0
    assert re.search(r"rank\s*: 1 [^\n]*\n\s*exitcode\s*: -9 [^\n]*SIGKILL", killed[1].stderr)


def test_two_killed_processes_resume_and_end_bit_for_bit_where_unbroken_ones_end(runs: Path) -> None:
    """With mosaic, moving average, workers, accumulated batches and an epoch with a frozen backbone."""
    unbroken, broken = (torch.load(runs / name / "last.pt", weights_only=True) for name in ("unbroken", "broken"))
    for part in ("detector", "average"):
        assert unbroken[part].keys() == broken[part].keys()
        assert not [name for name, value in unbroken[part].items() if not torch.equal(value, broken[part][name])]
    assert losses(runs / "unbroken") == losses(runs / "broken")


def test_two_processes_on_half_batches_have_the_losses_of_one_on_whole_batches(
    runs: Path, drawn_voc: Path, tmp_path: Path
) -> None:
    """With fixed batch norm; its moving statistics come from the pictures of a process alone."""
    train_with_fixed_batch_norm = runpy.run_path(str(SCRIPT))["train_with_fixed_batch_norm"]
    train_with_fixed_batch_norm(drawn_voc, tmp_path / "one")
    assert losses(runs / "fixed") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)
    train_with_fixed_batch_norm(drawn_voc, tmp_path / "taught", runs / "unbroken")
    assert losses(runs / "taught") == pytest.approx(losses(tmp_path / "taught"), rel=1e-5)
