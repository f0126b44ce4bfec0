"""What `pocketdet serve` costs beside `predict`, and what it does at twice its capacity.

python benchmarks/serve.py PICTURE [--model animals] [--seconds 5] [--rounds 3] [--clients 8] [--overload 30]

The raw rate and the server's take turns, so that a busy machine slows both; the clients run on the same machine. Then
clients ask twice as often as the server answered, for --overload seconds; memory is the server's resident size.
"""

import argparse
import http.client
import json
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pocketdet

PLACES = 16  # requests that the server takes at once
SAMPLES = 10  # of the memory during the overload


class Load:
    """Clients on connections of their own; each waits for its answer before it asks again."""

    def __init__(self, port: int, picture: bytes, clients: int, interval: float = 0.0) -> None:
        self.port, self.picture, self.clients, self.interval = port, picture, clients, interval
        self.times: list[float] = []  # of answers with 200
        self.statuses: Counter[int] = Counter()

    def run(self, seconds: float) -> None:
        self.end = time.perf_counter() + seconds
        threads = [threading.Thread(target=self._ask, args=(n,)) for n in range(self.clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _ask(self, number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        time.sleep(self.interval * number / self.clients)
        due = time.perf_counter()
        while (start := time.perf_counter()) < self.end:
            connection.request("POST", "/v1/detect", self.picture, {"Content-Type": "image/jpeg"})
            answer = connection.getresponse()
            answer.read()
            self.statuses[answer.status] += 1
            if answer.status == 200:
                self.times.append(time.perf_counter() - start)
            due = max(due + self.interval, time.perf_counter() - self.interval)
            time.sleep(max(0.0, due - time.perf_counter()))


def raw_rate(predictor: pocketdet.Predictor, picture: bytes, seconds: float) -> float:
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        predictor.predict(picture, keep_image=False)
        count += 1
    return count / (time.perf_counter() - start)


def resident(process: subprocess.Popen[bytes]) -> float:
    """MB."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--model", default="animals")
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--overload", type=float, default=30)
    wish = parser.parse_args()
    picture, predictor = wish.picture.read_bytes(), pocketdet.load(wish.model)
    predictor.predict(picture)
    options = ["--model", wish.model, "--port", "0", "--json", "--max-requests", str(PLACES)]
    command = [sys.executable, "-m", "pocketdet", "serve", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        port = int(json.loads(process.stdout.readline())["url"].rpartition(":")[2])
        Load(port, picture, wish.clients).run(1)
        ratios, rates, times = [], [], []
        for _ in range(wish.rounds):
            raw = raw_rate(predictor, picture, wish.seconds)
            load = Load(port, picture, wish.clients)
            load.run(wish.seconds)
            rates.append(len(load.times) / wish.seconds)
            ratios.append(rates[-1] / raw)
            times += load.times
            print(f"predict {raw:.1f} pictures/s, served {rates[-1]:.1f}, ratio {ratios[-1]:.2f}", flush=True)
        cuts = statistics.quantiles(times, n=100)
        print(f"median ratio {statistics.median(ratios):.2f}; {wish.clients} clients waited, in ms:", end=" ")
        print(*(f"p{p} {cuts[p - 1] * 1000:.0f}" for p in (50, 95, 99)))
        clients = 4 * PLACES
        load = Load(port, picture, clients, interval=clients / (2 * statistics.median(rates)))
        sizes = [resident(process)]
        thread = threading.Thread(target=load.run, args=(wish.overload,))
        thread.start()
        for _ in range(SAMPLES):
            time.sleep(wish.overload / SAMPLES)
            sizes.append(resident(process))
        thread.join()
        print(f"at 2 x capacity for {wish.overload:g} s: answers {dict(load.statuses)}", end=", ")
        print(f"memory in MB before, and {SAMPLES} times in it:", *(f"{size:.0f}" for size in sizes))
        process.terminate()


if __name__ == "__main__":
    main()
