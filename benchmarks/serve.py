"""Time `uflow serve`: requests per second and tail latency at 127.0.0.1, beside the rate of its own engine.

    python benchmarks/serve.py --model RUN --images DIR [--requests 200] [--seconds 20] [--clients 1,2,4,8]

Each number of clients sends the same images, one after the other on a connection each, until so many requests or
seconds are over. The engine's rate is that of `detect_many` in this process, over the same files, before and after:
all shares are of the mean of both. Every answer is compared with the detector's.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import uflow_cli as uflow
from uflow_cli.images import list_images


@dataclass
class Load:
    """What clients saw: seconds of each answer, and how long all of it took."""

    latencies: list[float] = field(default_factory=list)
    refused: int = 0
    elapsed: float = 0.0


def main() -> None:
    """Print a row for each number of clients."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--clients", default="1,2,4,8")
    arguments = parser.parse_args()
    paths = list_images(arguments.images, recursive=True)[:50]
    detector = uflow.load(arguments.model, device="cpu")
    expected = [result.log_nfa for _, result in detector.detect_many(paths)]  # and the engine is warm

    def engine_rate() -> float:
        start = time.perf_counter()
        in_time = itertools.takewhile(lambda _: time.perf_counter() - start < arguments.seconds, itertools.cycle(paths))
        n = sum(1 for _ in detector.detect_many(itertools.islice(in_time, arguments.requests)))
        return n / (time.perf_counter() - start)

    rates, loads = [engine_rate()], {}
    bodies = [path.read_bytes() for path in paths]
    with server(arguments.model) as port:
        for n_clients in [1, *map(int, arguments.clients.split(","))]:  # the first one warms up
            loads[n_clients] = load(
                port, bodies, expected, n_clients=n_clients, n_requests=arguments.requests, seconds=arguments.seconds
            )
    rates.append(engine_rate())
    rate = float(np.mean(rates))
    print(f"engine: {rates[0]:.2f} and {rates[1]:.2f} images per second")
    print("| clients | requests | refused | per second | of the engine's | p50 ms | p95 ms | p99 ms |")
    print("|---|---|---|---|---|---|---|---|")
    for n_clients, found in loads.items():
        per_second = len(found.latencies) / found.elapsed
        tail = [f"{1000 * q:.0f}" for q in np.quantile(found.latencies, (0.5, 0.95, 0.99))]
        cells = [n_clients, len(found.latencies), found.refused, f"{per_second:.2f}", f"{per_second / rate:.0%}", *tail]
        print(f"| {' | '.join(map(str, cells))} |")


@contextmanager
def server(run: Path) -> Iterator[int]:
    """A server of `run` in a process of its own; gives its port."""
    command = [sys.executable, "-m", "uflow_cli", "serve", "--model", str(run), "--port", "0", "--device", "cpu"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        line = next(line for line in process.stderr if "serving" in line)
        found = re.search(r":(\d+) ", line)
        assert found, line
        yield int(found[1])
    finally:
        process.terminate()
        process.wait(60)


def load(
    port: int, bodies: Sequence[bytes], expected: Sequence[float], *, n_clients: int, n_requests: int, seconds: float
) -> Load:
    """Send images by `n_clients` threads; AssertionError for a wrong answer."""
    numbers, result, errors = itertools.count(), Load(), list[BaseException]()
    deadline = time.perf_counter() + seconds

    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        try:
            while (number := next(numbers)) < n_requests and time.perf_counter() < deadline:
                image, start = number % len(bodies), time.perf_counter()
                connection.request("POST", "/detect", bodies[image])
                answer = connection.getresponse()
                values = json.loads(answer.read())
                if answer.status == 429:
                    result.refused += 1
                    continue
                assert values["log_nfa"] == expected[image], values
                result.latencies.append(time.perf_counter() - start)
        except BaseException as error:
            errors.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=client) for _ in range(n_clients)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    result.elapsed = time.perf_counter() - start
    if errors:
        raise errors[0]
    return result


if __name__ == "__main__":
    main()
