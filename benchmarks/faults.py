"""Break commands wherever they touch the disk, and see that nothing is lost and that they go on.

    python benchmarks/faults.py [kill] [full] [readonly] [moments] [tmpfs] [--only train,...] [--most 200] [--seed 0]

`kill`, `full` and `readonly` count what a command does to files (opening one to write, renaming, removing, linking,
making a folder): at the n-th of these the process dies by SIGKILL, or that and all later ones fail as on a full or a
read-only disk, for each n, or for `--most` of them drawn by the seed. `moments` kills at random moments, which also
breaks into single writes. `tmpfs`, for which it takes root, gives the folder a disk of its own of `--most`
sizes, most of them too small. After each break all files are whole, and what is half written has another name; a
failure is one line and exit code 1. Then the same command is given again, as a user would, until it ends well, and in
the end the folder holds what an uninterrupted run leaves, and nothing else. A server, which writes nothing, is killed
while it is asked: what came whole is right, and the next one listens at once.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

from fault_injection import Fault, Scenario, Stage, require_whole
from fault_scenarios import archive, at_an_address, scenarios, write_base

from uflow_cli.files import remove_litter
from uflow_cli.results import RESULT_NAME

PAGE = 4096  # bytes


def broken_at_each_change(
    stage: Stage, scenario: Scenario, root: Path, *, kinds: Sequence[str], most: int, rng: random.Random
) -> dict[str, tuple[int, int]]:
    """Let faults strike at each change of a file: by kind, at how many they did and how many there are."""
    expected, n_changes = uninterrupted(stage, scenario, root)
    struck = dict.fromkeys(kinds, 0)
    for kind in kinds:
        numbers = range(1, n_changes + 1)
        for number in numbers if n_changes <= most else sorted(rng.sample(numbers, most)):
            folder = prepared(scenario, root)
            process, count = stage.start(scenario, folder, Fault(kind, number, folder))
            code = stage.finish(scenario, folder, process)
            struck[kind] += count.value >= number
            where = f"{scenario.name}, {kind} at change {number} of {n_changes}, exit code {code}: {stage.said}"
            if kind == "kill":  # of a worker it may be, which its parent tells
                assert code in (-signal.SIGKILL, 1) or count.value < number, where
            elif code:
                require_one_line(stage, scenario, code, where)
            require_whole(folder)
            # the last steps only remove files: a full disk lets them, and a read-only one keeps what nobody needs
            if code or (kind == "readonly" and outcome_of(scenario, folder) != expected):
                stage.all(scenario, folder)
            elif advice := re.search(r"; then: uflow (export --model \S+)$", stage.said, re.MULTILINE):
                stage.all(Scenario("export", Path.mkdir, lambda _folder, said=advice: said[1].split()), folder)
            require_same(outcome_of(scenario, folder), expected, where)
    return {kind: (n, n_changes) for kind, n in struck.items()}


def killed_at_moments(
    stage: Stage, scenario: Scenario, root: Path, *, n_kills: int, rng: random.Random
) -> tuple[int, int]:
    """Kill `n_kills` times at random moments, often several times before an end: how many kills and ends."""
    expected, _ = uninterrupted(stage, scenario, root)
    folder = prepared(scenario, root)
    begun = time.monotonic()
    stage.all(scenario, folder)
    seconds = time.monotonic() - begun
    kills = ends = 0
    while kills < n_kills:
        folder, ends, was_killed = prepared(scenario, root), ends + 1, False
        while True:
            process, _ = stage.start(scenario, folder)
            end = time.monotonic() + rng.uniform(0, 1.1 * seconds)
            while process.exitcode is None and time.monotonic() < end:
                process.join(min(0.02, max(0.0, end - time.monotonic())))
                if scenario.is_done and scenario.is_done(folder):
                    break
            if process.exitcode is not None or kills >= n_kills or (scenario.is_done and scenario.is_done(folder)):
                code = stage.finish(scenario, folder, process)
                # who was killed when all was done may be told that it is there already, and it must be all there
                assert code == 0 or (was_killed and code == 1), f"{scenario.name} ended with {code}: {stage.said}"
                break
            was_killed = True
            process.kill()
            process.join()
            kills += process.exitcode == -signal.SIGKILL
            require_whole(folder)
        require_same(outcome_of(scenario, folder), expected, f"{scenario.name} after {kills} kills")
    return kills, ends


def on_small_disks(
    stage: Stage, scenario: Scenario, root: Path, *, n_disks: int, rng: random.Random
) -> tuple[int, int]:
    """Let the folder lie on a disk of its own that may be too small, a tmpfs: how many of `n_disks` were, and all."""
    expected, _ = uninterrupted(stage, scenario, root)
    ends_with = _in_pages(root / "folder")
    begins_with = _in_pages(prepared(scenario, root))
    disk, too_small = root / "disk", 0
    disk.mkdir(exist_ok=True)
    for _ in range(n_disks):
        size = begins_with + PAGE * rng.randrange(2, 8 + max(8, int(1.2 * (ends_with - begins_with)) // PAGE))
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", disk], check=True)
        try:
            folder = disk / "folder"
            folder.mkdir()
            scenario.begin(folder)
            process, _ = stage.start(scenario, folder)
            code = stage.finish(scenario, folder, process)
            where = f"{scenario.name} on a disk of {size} bytes, exit code {code}: {stage.said}"
            if code:
                require_one_line(stage, scenario, code, where)
                too_small += 1
            require_whole(folder)
            subprocess.run(["mount", "-o", "remount,size=1g", disk], check=True)
            if code:
                stage.all(scenario, folder)
            require_same(outcome_of(scenario, folder), expected, where)
        finally:
            subprocess.run(["umount", disk], check=True)
    return too_small, n_disks


def _in_pages(folder: Path) -> int:
    """Bytes that `folder` takes on a tmpfs."""
    return sum(-(-path.stat().st_size // PAGE) * PAGE for path in (folder, *folder.rglob("*")))


def killed_servers(stage: Stage, base: Path, root: Path, *, n_kills: int, rng: random.Random) -> tuple[int, int]:
    """Kill a server `n_kills` times at random moments while a client asks: how many kills, and answers that came whole.

    Those are right, nothing is left below `root`, and the next server is there at once at the same address.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = ["serve", "--model", base / "runs" / "bolt", "--port", port, "--device", "cpu"]
    scenario = Scenario("serve", Path.mkdir, lambda _folder: words)
    bodies = [path.read_bytes() for path in sorted((base / "images").rglob("*.png"))]
    folder = root / "folder"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    begun = time.monotonic()
    process, _ = stage.start(scenario, folder)
    expected = [_answer(port, body, process) for body in bodies]
    seconds = time.monotonic() - begun
    kills = answers = 0
    while True:
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL, stage.said
        assert not list(folder.rglob("*")), "a server left files"
        if kills == n_kills:
            return kills, answers
        process, _ = stage.start(scenario, folder)
        killer = threading.Timer(rng.uniform(0, 1.5 * seconds), process.kill)
        killer.start()
        for index in itertools.cycle(range(len(bodies))):
            found = _answer(port, bodies[index], process)
            if found is None:
                break
            if found != expected[index]:
                process.kill()
                raise AssertionError(f"image {index} after {kills} kills")
            answers += 1
        killer.join()
        kills += 1


def _answer(port: int, body: bytes, server: BaseProcess) -> object:
    """What the server at `port` says of an image, as soon as it listens; None where that dies before all is said."""
    while server.exitcode is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        try:
            connection.request("POST", "/detect", body)
            answer = connection.getresponse()
            said = answer.read()
        except (OSError, http.client.HTTPException):  # not there yet, or not there any more
            time.sleep(0.01)
            continue
        finally:
            connection.close()
        assert answer.status == 200, said
        return json.loads(said)
    return None


def prepared(scenario: Scenario, root: Path) -> Path:
    """The folder of the scenario as it is before the command."""
    folder = root / "folder"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    scenario.begin(folder)
    return folder


def uninterrupted(stage: Stage, scenario: Scenario, root: Path) -> tuple[object, int]:
    """What the command leaves, and the number of its changes of files."""
    folder = prepared(scenario, root)
    n_changes = stage.all(scenario, folder)
    require_whole(folder)
    return outcome_of(scenario, folder), n_changes


def outcome_of(scenario: Scenario, folder: Path) -> object:
    """What is to be the same as without a break."""
    if scenario.leaves_litter:
        remove_litter(folder, below=True)
    return scenario.outcome(folder)


def require_one_line(stage: Stage, scenario: Scenario, code: int, where: str) -> None:
    """AssertionError unless the last command failed with exit code 1 and one line for each product that failed."""
    lines = [line for line in stage.said.splitlines() if line.startswith("uflow: ")]
    assert code == 1, where
    assert 1 <= len(set(lines)) == len(lines) <= scenario.n_products, where
    assert "Traceback" not in stage.said, where


def require_same(found: object, expected: object, where: str) -> None:
    """AssertionError that names the differences."""
    if found == expected:
        return
    if isinstance(found, dict) and isinstance(expected, dict):
        differing = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
        raise AssertionError(f"{where}\n{differing} are not as they would be without it")
    raise AssertionError(f"{where}\n{found} instead of {expected}")


def main() -> None:
    """Break all commands, and print how often."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", default=["kill", "full", "readonly", "moments"])
    parser.add_argument("--only", help="Commands, by their first words, with commas between.")
    parser.add_argument("--most", type=int, default=200, help="Breaks of a kind for each command.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, help="Folder to work in; what all begin with stays there.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = (options.work or Path(folder)).resolve()
        stage = Stage(root / "output.txt")
        if not (root / "base" / "detected" / RESULT_NAME).is_file():  # the last of it
            shutil.rmtree(root / "base", ignore_errors=True)
            write_base(stage, root / "base")
        checkpoint = _published(root / "bolt.ckpt")
        with at_an_address(archive(root / "base" / "data")) as address:
            for scenario in scenarios(root / "base", address, checkpoint):
                if options.only and not any(scenario.name.startswith(name) for name in options.only.split(",")):
                    continue
                _report(stage, scenario, root, options)
        if "moments" in options.kinds and (not options.only or "serve" in options.only.split(",")):
            rng = random.Random(options.seed)
            kills, answers = killed_servers(stage, root / "base", root, n_kills=options.most, rng=rng)
            print(f"serve: {kills} kills at random moments, {answers} whole and right answers", flush=True)


def _report(stage: Stage, scenario: Scenario, root: Path, options: argparse.Namespace) -> None:
    rng, begun, told = random.Random(options.seed), time.monotonic(), []
    try:
        for kind in options.kinds:
            if kind == "moments":
                kills, ends = killed_at_moments(stage, scenario, root, n_kills=options.most, rng=rng)
                told.append(f"{kills} kills at random moments in {ends} runs")
            elif kind == "tmpfs":
                few, all_ = on_small_disks(stage, scenario, root, n_disks=options.most, rng=rng)
                told.append(f"{few} of {all_} disks too small")
            else:
                found = broken_at_each_change(stage, scenario, root, kinds=[kind], most=options.most, rng=rng)
                told.append(f"{kind} at {found[kind][0]} of {found[kind][1]} changes")
    except AssertionError as error:
        told.append(f"FAULT {error}")
    print(f"{scenario.name}: {', '.join(told)} ({time.monotonic() - begun:.0f} s)", flush=True)


def _published(path: Path) -> Path | None:
    """A checkpoint as the authors publish them; None where the tests that can make one are not here."""
    sys.path.append(str(Path(__file__).parents[1] / "tests"))
    try:
        from test_checkpoints import resnet_checkpoint
    except ImportError:
        return None
    resnet_checkpoint(path)
    return path


if __name__ == "__main__":
    main()
