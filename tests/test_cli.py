"""The command line as a user meets it: what it prints, and one clear line with status 2 for bad input."""

import json
import logging
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from attnzoo import cli
from attnzoo.emotion.media import Index
from attnzoo.emotion.run_folder import claim
from attnzoo.leaderboard.store import Store

TINY = """
name: tiny
data: {test_fraction: 0.34, val_fraction: 0}
clip: {segments: 2, frames: 4, size: 32}
audio: {coefficients: 12, mels: 24, width: 16}
model:
  visual: {backbone: resnet3d/10, options: {widen_factor: 0.125, stem_size: 3}}
  audio: {backbone: timm/resnet10t}
  width: 16
training: {epochs: 2, batch: 6, lr: 1.0e-3, workers: 0}
grid:
  attn: [none, {name: se, options: {reduction: 4}}]
  seeds: [0, 1]
"""


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


def index(path: Path) -> Index:
    return Index(path, tuple(range(24)), 0.1, 10, 24, None)


def refused(result: tuple[int, str, str], *parts: str) -> None:
    status, _, err = result
    assert status == 2
    assert err.count("\n") == 1, err
    assert err.startswith("attnzoo: ")
    for part in parts:
        assert part in err


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ("profile timm/resnet18 --attn see", ["no attention module is called 'see'", "did you mean se"]),
        ("profile timm/resnet18 --attn mpe:group=2", ["mpe has no option 'group'", "did you mean groups"]),
        ("profile timm/resnet10x", ["no backbone timm/resnet10x", "timm/resnet101"]),
        ("profile resnet18", ["backbone 'resnet18' must be one of timm/NAME"]),
        ("profile timm/resnet18 --attn se --stages 5", ["stage 5 is not in this ResNet", "1, 2, 3, 4"]),
        ("profile timm/resnet18 --attn se --site inside", ["site 'inside' must be one of out, mid, conv, stage"]),
        ("profile timm/resnet18 --attn mpe:groups=7", ["channels=64 is not divisible by groups=7", "1, 2, 4, 8"]),
        ("profile timm/resnet18 --attn se --input-size 1 3 8 32 32", ["input size (1, 3, 8, 32, 32)"]),
        ("profile timm/resnet18 --counter flops", ["counter 'flops' must be one of fvcore"]),
        ("profil timm/resnet18", ["no such command 'profil'", "'profile'", "attnzoo --help"]),
        ("profile", ["missing argument 'backbone'", "attnzoo profile --help"]),
        ("profile timm/resnet18 --stage 3", ["unknown option --stage of attnzoo profile", "--stages"]),
        ("profile timm/resnet18 --num-classes x", ["'--num-classes'", "valid integer", "attnzoo profile --help"]),
        ("train demo --seed", ["--seed", "requires an argument", "--help"]),
        ("train nosuch.yaml", ["there is no recipe nosuch.yaml", "demo.yaml"]),
        ("data check nowhere", ["there is no data folder nowhere"]),
        ("data synth out --without smell", ["no cue 'smell'", "micro"]),
        ("predict no.pt clip.mp4", ["there is no video clip.mp4"]),
        ("leaderboard show --store no.sqlite", ["no.sqlite", "attnzoo leaderboard run"]),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    attnzoo: Callable[..., tuple[int, str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: str,
    parts: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(attnzoo(*arguments.split()), *parts)


def test_bad_data_recipes_and_checkpoints_are_one_line_and_status_2(
    attnzoo: Callable[..., tuple[int, str, str]], tiny: Path, tmp_path: Path, write_video: Callable[..., Path]
) -> None:
    empty, one = tmp_path / "empty", tmp_path / "one"
    empty.mkdir()
    clip = write_video(one / "only" / "a.mp4")
    refused(attnzoo("train", tiny), "names no data", "--data DIR")
    refused(attnzoo("train", tiny, "--data", empty), "is empty")
    refused(attnzoo("train", tiny, "--data", empty, "--out", clip), f"cannot write into {clip}", "--out")
    with claim(tmp_path / "taken"):
        refused(attnzoo("train", tiny, "--data", empty, "--out", tmp_path / "taken"), "another process trains in")
    refused(attnzoo("train", tiny, "--data", one), "one class only (only)")
    refused(attnzoo("train", tiny, "--data", one, "--set", "training.epoch=3"), "training.epoch", "did you mean epochs")
    refused(attnzoo("train", tiny, "--data", one, "--attn", "mpe:groups"), "'groups' is not KEY=VALUE")
    torch.save({"state_dict": torch.nn.Linear(2, 2).state_dict()}, tmp_path / "other.pt")
    refused(attnzoo("predict", tmp_path / "other.pt", clip), "is not a checkpoint of attnzoo: ")
    (tmp_path / "text.sqlite").write_text("no database" * 100)
    refused(attnzoo("leaderboard", "show", "--store", tmp_path / "text.sqlite"), "text.sqlite")


def test_data_check_lists_every_defect(
    attnzoo: Callable[..., tuple[int, str, str]], tmp_path: Path, write_video: Callable[..., Path]
) -> None:
    root = tmp_path / "data"
    write_video(root / "a" / "good.mp4")
    write_video(root / "b" / "good.mp4")
    status, out, _ = attnzoo("data", "check", root)
    assert (status, out) == (0, f"{root}: 2 videos of 2 classes\n")
    (root / "b" / "text.mp4").write_text("no video")
    write_video(root / "b" / "[silent].mp4", click=None)
    write_video(root / "b" / "short.mp4", frames=3, click=0.1)
    status, out, _ = attnzoo("data", "check", root)
    assert status == 2
    assert "1 unreadable (skipped)" in out
    lines = out.splitlines()
    assert [line.split(": ")[:2] for line in lines[1:4]] == [
        ["silent", "b/[silent].mp4"],
        ["short", "b/short.mp4"],
        ["unreadable", "b/text.mp4"],
    ]


def test_a_video_that_breaks_a_loading_process_is_named_in_one_line(
    attnzoo: Callable[..., tuple[int, str, str]],
    videos: Path,
    tiny: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def gone(found: Index, *_: object) -> None:
        raise ValueError(f"{found.path}: the file is gone")

    monkeypatch.setattr("attnzoo.emotion.media.read_frames", gone)
    monkeypatch.setattr("attnzoo.emotion.media.read_index", index)
    result = attnzoo("train", tiny, "--data", videos, "--out", tmp_path / "out", "--set", "training.workers=1")
    refused(result, f"attnzoo: {videos}/", ".mp4: the file is gone\n")


def test_training_that_diverges_stops_and_keeps_the_epochs_before(
    attnzoo: Callable[..., tuple[int, str, str]], videos: Path, tiny: Path, tmp_path: Path
) -> None:
    arguments = ("train", tiny, "--data", videos, "--out", tmp_path / "out", "--set", "training.lr=1e30")
    refused(attnzoo(*arguments), "loss is nan at step 2 of epoch 1, videos ", ".mp4", "training.lr below 1e+30")
    assert not list((tmp_path / "out").glob("*.*pt"))


def test_interrupting_synth_is_one_line_and_the_videos_that_are_done_stay(tmp_path: Path) -> None:
    root = tmp_path / "videos"
    command = [sys.executable, "-m", "attnzoo", "data", "synth", str(root), "--per-class", "99", "--seconds", "1"]
    # A shell that starts the tests in the background has them, and what they start, ignore the signal.
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=heed
    ) as process:
        while process.poll() is None and not list(root.glob("*/*.mp4")):
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to the processes that write too
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err.count("\n")) == (130, 1), err
    assert err.startswith(f"interrupted; finished videos are in {root}")


def test_training_needs_nothing_of_the_leaderboard(videos: Path, tiny: Path, tmp_path: Path) -> None:
    blocked = "import sys; sys.modules.update(dict.fromkeys(('sqlalchemy', 'jinja2', 'plotly')));"
    code = f"{blocked} from attnzoo.cli import main; main()"
    arguments = ["train", tiny, "--data", videos, "--out", tmp_path / "out", "--set", "training.epochs=1"]
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "model.safetensors").exists()


def test_options_with_several_values_take_any_form_and_order(attnzoo: Callable[..., tuple[int, str, str]]) -> None:
    first = attnzoo("profile", "timm/resnet18", "--attn", "se", "cbam")
    assert first[0] == 0
    assert first[1].count("none") == 1
    assert attnzoo("profile", "timm/resnet18", "--attn=se", "cbam") == first
    assert attnzoo("profile", "--attn", "se", "cbam", "timm/resnet18") == first
    assert attnzoo("profile", "--counter", "fvcore", "--attn", "none", "se", "cbam", "timm/resnet18") == first


@pytest.mark.parametrize("terminal", [True, False])
def test_no_table_is_cut_however_narrow_the_terminal(
    attnzoo: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    monkeypatch.setattr(cli.console, "width", 30)
    monkeypatch.setattr(cli.console, "_force_terminal", terminal)
    status, out, _ = attnzoo("profile", "timm/resnet18", "--attn", "se")
    assert status == 0
    assert {"none", "se", "11.690", "11.777"} <= set(re.sub(r"\x1b\[[\d;]*m", "", out).split())


def test_an_empty_store_says_how_to_fill_it(attnzoo: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    Store(tmp_path / "s.sqlite").close()
    status, out, _ = attnzoo("leaderboard", "show", "--store", tmp_path / "s.sqlite")
    assert (status, out.count("\n")) == (0, 1)
    assert "attnzoo leaderboard run RECIPE --store" in out


def test_what_the_library_logs_is_shown(
    attnzoo: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def noted(*_: object) -> list[object]:
        logging.getLogger("attnzoo.backbones.weights").info("head %s skipped", "fc")
        return []

    monkeypatch.setattr("attnzoo.emotion.evaluation.predict", noted)
    status, _, err = attnzoo("predict", "model.safetensors", "a.mp4")
    assert (status, err) == (0, "attnzoo: head fc skipped\n")


def test_debug_shows_the_traceback() -> None:
    command = [sys.executable, "-m", "attnzoo", "profile", "nothing"]
    plain = subprocess.run(command, capture_output=True, text=True, check=False)
    debug = subprocess.run([*command, "--debug"], capture_output=True, text=True, check=False)
    assert plain.returncode == 2
    assert "Traceback" not in plain.stderr
    assert plain.stderr.count("\n") == 1
    assert "Traceback" in debug.stderr


def test_profile_prints_the_networks_beside_the_plain_one(attnzoo: Callable[..., tuple[int, str, str]]) -> None:
    status, out, _ = attnzoo("profile", "timm/resnet50", "--attn", "se", "mpe:groups=16", "--counter", "torch")
    assert status == 0
    assert "25.557" in out  # the published size of ResNet-50, M
    assert "28.072" in out  # and of SE-ResNet-50 without biases
    assert "mpe:groups=16" in out


def test_train_leaderboard_evaluate_predict(
    attnzoo: Callable[..., tuple[int, str, str]],
    videos: Path,
    tiny: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    store = tmp_path / "runs" / "leaderboard.sqlite"
    status, out, err = attnzoo("leaderboard", "run", tiny, "--data", videos)
    assert status == 0, err
    assert out.count("test accuracy") == 4
    status, out, _ = attnzoo("leaderboard", "run", tiny, "--data", videos)
    assert (status, out.count("finished before"), out.count("test accuracy")) == (0, 4, 0)

    # One run is taken out of the store: it alone is stored again, from its checkpoint.
    with sqlite3.connect(store) as database:
        (victim,) = database.execute("select id from runs where row = 'se' and seed = 1").fetchone()
        database.execute("delete from runs where id = ?", (victim,))
    database.close()
    status, out, _ = attnzoo("leaderboard", "run", tiny, "--data", videos)
    assert (status, out.count("finished before"), out.count("test accuracy")) == (0, 3, 1)

    status, out, _ = attnzoo("leaderboard", "show")
    assert status == 0
    assert "none" in out
    assert "se" in out
    status, out, _ = attnzoo("leaderboard", "report", "--output", "page.html")
    assert status == 0
    assert "tiny" in (tmp_path / "page.html").read_text()

    status, out, _ = attnzoo("train", tiny, "--data", videos, "--attn", "se", "--seed", "0", "--out", "single")
    assert status == 0
    assert "chance 33.3%" in out
    status, out, _ = attnzoo("evaluate", "single", "--json")
    report = json.loads(out)
    assert status == 0
    with sqlite3.connect(store) as database:
        (accuracy,) = database.execute("select accuracy from runs where row = 'se' and seed = 0").fetchone()
    database.close()
    assert report["accuracy"] == accuracy  # `train` and the leaderboard train the same model
    status, out, _ = attnzoo("evaluate", "single/model.safetensors")
    assert status == 0
    assert "recall" in out
    status, out, _ = attnzoo("predict", "single/model.safetensors", next((videos / "calm").glob("*.mp4")), "--json")
    assert status == 0
    assert set(json.loads(out)[0]["probabilities"]) == {"calm", "cross", "glad"}
