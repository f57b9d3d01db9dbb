"""The exported model gives in onnxruntime what the model gives, and says what it is."""

import json
import sys
from pathlib import Path

import onnxruntime
import pytest
import torch

from attnzoo import cli
from attnzoo.emotion.checkpoints import load_checkpoint


def test_onnx_gives_the_same_for_any_batch(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "model.onnx"
    monkeypatch.setattr(sys, "argv", ["attnzoo", "export", str(trained.parent), "--onnx", str(path)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert not stop.value.code, capsys.readouterr().err
    model, about = load_checkpoint(trained)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    inputs = {entry.name: entry.type for entry in session.get_inputs()}
    assert inputs == {"frames": "tensor(uint8)", "sound": "tensor(float)", "heard": "tensor(bool)"}
    for batch in (1, 3):
        frames = torch.randint(256, (batch, 2, 3, 4, 32, 32), dtype=torch.uint8)
        sound, heard = 10 * torch.randn(batch, 2, 1, 12, 16), torch.arange(batch) % 2 == 0
        given = {"frames": frames.numpy(), "sound": sound.numpy(), "heard": heard.numpy()}
        (logits,) = session.run(["logits"], given)
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(logits), model(frames, sound, heard), rtol=1e-4, atol=1e-5)
    said = session.get_modelmeta().custom_metadata_map
    assert json.loads(said["classes"]) == about["classes"]
    assert json.loads(said["recipe"])["clip"]["segments"] == 2
    assert said["protocol"] == about["protocol"]
    assert str(Path(__file__).parents[2]).encode() not in path.read_bytes()  # nor where it was made
