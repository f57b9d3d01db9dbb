"""On a Ray cluster every run ends exactly once in the store, whatever becomes of the machines."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from attnzoo.emotion.checkpoints import LAST, MODEL
from attnzoo.leaderboard.store import Store

EPOCHS = 6
RECIPE = f"""
name: tiny
data: {{test_fraction: 0.34, val_fraction: 0}}
clip: {{segments: 1, frames: 2, size: 32}}
audio: {{coefficients: 12, mels: 24, width: 16}}
model:
  visual: {{backbone: resnet3d/10, options: {{widen_factor: 0.125, stem_size: 3}}}}
  audio: {{backbone: timm/resnet10t}}
  width: 8
training: {{epochs: {EPOCHS}, batch: 6, lr: 1.0e-3, workers: 0}}
grid: {{attn: [none, se], seeds: [0, 1]}}
"""
ALL = [("none", 0), ("none", 1), ("se", 0), ("se", 1)]
# So that a machine that is gone is missed in a second, not in half a minute.
QUICK = {"health_check_initial_delay_ms": 500, "health_check_period_ms": 300, "health_check_failure_threshold": 3}
SMALL = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
Begin = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def begin(videos: Path, tmp_path: Path) -> Iterator[Begin]:
    """A function that starts the grid on Ray, with further arguments."""
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    command = [sys.executable, "-m", "attnzoo", "leaderboard", "run", "tiny.yaml", "--data", str(videos)]
    started = []

    def start(*arguments: str, engine: str = "ray") -> subprocess.Popen[str]:
        started.append(
            subprocess.Popen(
                [*command, "--engine", engine, *arguments],
                cwd=tmp_path,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        )
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def in_the_middle(out: Path) -> int:
    """How many runs have trained an epoch and are not finished."""
    return sum(not (path.parent / MODEL).exists() for path in out.glob(f"*/{LAST}"))


def wait_until(reached: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 120
    while not reached():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "too long"
        time.sleep(0.01)


def runs(tmp_path: Path) -> list[tuple[str, int]]:
    with Store(tmp_path / "runs" / "leaderboard.sqlite", create=False) as store:
        return sorted((run.row, run.seed) for run in store.runs())


def test_a_machine_that_is_lost_loses_no_run(begin: Begin, tmp_path: Path) -> None:
    from ray.cluster_utils import Cluster

    at_sigterm = signal.getsignal(signal.SIGTERM)  # which Ray puts its own in place of
    cluster = Cluster(initialize_head=True, head_node_args={**SMALL, "_system_config": QUICK})
    try:
        doomed = cluster.add_node(**SMALL)
        process = begin("--address", cluster.address)
        # With room for one run on each machine, one of the two is on the machine that dies.
        wait_until(lambda: in_the_middle(tmp_path / "runs" / "tiny") == 2, process)
        cluster.remove_node(doomed, allow_graceful=False)
        told, wrong = process.communicate(timeout=120)
    finally:
        cluster.shutdown()
        signal.signal(signal.SIGTERM, at_sigterm)
    assert process.returncode == 0, told + wrong
    assert "2 machines, 2 at a time with 1 CPU each" in told
    assert told.count("lost, begins again") == 1, told
    assert told.count("test accuracy") == 4, told
    assert runs(tmp_path) == ALL
    assert not wrong


def session(leader: int) -> list[str]:
    """The processes that a process started, and itself."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            name, _, rest = stat.read_text().rpartition(")")
            found += [name] if rest.split()[3] == str(leader) else []
    return found


def test_an_interrupted_grid_leaves_no_process_behind_and_goes_on_here(begin: Begin, tmp_path: Path) -> None:
    process = begin("--cpus-per-run", "1", "--set", "grid.seeds=[0]")
    out = tmp_path / "runs" / "tiny"
    wait_until(lambda: in_the_middle(out) > 0, process)
    assert any("raylet" in name for name in session(process.pid))
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    told, wrong = process.communicate(timeout=120)
    assert process.returncode == 130, told + wrong
    assert wrong.startswith("interrupted; finished runs are in ")
    assert session(process.pid) == []
    done = told.count("test accuracy")
    assert done < 2
    process = begin("--set", "grid.seeds=[0]", engine="local")
    told, wrong = process.communicate(timeout=120)
    assert process.returncode == 0, told + wrong
    assert (told.count("finished before"), told.count("test accuracy")) == (done, 2 - done), told
    assert told.count(f"epoch 1/{EPOCHS}") < 2 - done  # one that had trained an epoch did not begin again
    assert runs(tmp_path) == [("none", 0), ("se", 0)]


def test_an_address_at_which_nobody_answers_is_told_in_a_line(begin: Begin) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]  # free again behind the block
    process = begin("--address", f"127.0.0.1:{port}")
    _, wrong = process.communicate(timeout=120)
    assert process.returncode == 2
    assert wrong.startswith(f"attnzoo: no Ray cluster answers at 127.0.0.1:{port}; start one with `ray start --head`")
    assert wrong.count("\n") == 1
