"""How long a command takes from nothing to boxes, and how much memory: each in a fresh process.

python benchmarks/start.py [--picture FILE] [--rounds 7] [--peers FOLDER]

--peers names the folder with the commands of another environment, with ultralytics; its network has random weights, so
that nothing is downloaded. All take turns. "processor" is processor time of all threads, which other programs do not
add to.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import pocketdet

PICTURE = Path(pocketdet.__file__).parent / "assets" / "chelsea.jpg"


class Start(NamedTuple):
    """Of one process."""

    seconds: float
    processor: float  # seconds
    peak: float  # MB


def start(command: list[str], folder: str) -> Start:
    """Run a command to its end."""
    environment = os.environ | {"YOLO_CONFIG_DIR": folder, "YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false"}
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=folder, env=environment)
    assert process.stderr is not None
    messages = process.stderr.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begin
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{messages}")
    return Start(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--picture", type=Path, default=PICTURE)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--peers", type=Path)
    wish = parser.parse_args()
    picture = str(wish.picture.resolve())
    commands = {
        "import pocketdet": [sys.executable, "-c", "import pocketdet"],
        "pocketdet predict": [sys.executable, "-m", "pocketdet", "predict", picture],
        "... --model animals-small": [
            sys.executable,
            "-m",
            "pocketdet",
            "predict",
            picture,
            "--model",
            "animals-small",
        ],
    }
    if wish.peers:
        yolo = str(wish.peers.resolve() / "yolo")
        commands["yolo predict"] = [
            yolo,
            "predict",
            "model=yolov8n.yaml",
            f"source={picture}",
            "imgsz=416",
            "save=False",
        ]
    starts: dict[str, list[Start]] = {name: [] for name in commands}
    with tempfile.TemporaryDirectory() as folder:
        for command in commands.values():
            start(command, folder)  # fills the disk's cache
        for _ in range(wish.rounds):
            for name, command in commands.items():
                starts[name].append(start(command, folder))
    print(f"medians (and minima) of {wish.rounds} rounds in turns; peak is resident memory, MB")
    print(f"{'':28}{'seconds':>16}{'processor':>16}{'peak':>8}")
    for name, seen in starts.items():
        times = "".join(
            f"{statistics.median(t):8.2f} ({min(t):4.2f})".rjust(16) for t in list(zip(*seen, strict=True))[:2]
        )
        print(f"{name:28}{times}{max(s.peak for s in seen):8.0f}")
    if wish.peers:
        ours, theirs = (list(zip(*starts[name], strict=True)) for name in ("pocketdet predict", "yolo predict"))
        ratios = [
            statistics.median(a / b for a, b in zip(*pair, strict=True)) for pair in zip(ours, theirs, strict=True)
        ]
        print("pocketdet / yolo: seconds {:.2f}, processor {:.2f}, peak {:.2f}".format(*ratios))


if __name__ == "__main__":
    main()
