"""The winner as ONNX: real exports, run by the real onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from lightning.pytorch import LightningModule
from simulated import simulate
from torch import Tensor, nn

from orchestrator import cli, export
from orchestrator.errors import SweepError
from orchestrator.folder import SweepFolder
from orchestrator.ledger import Ledger, TrialRecord
from orchestrator.ranking import ranked
from orchestrator.spec import Spec
from trainables.digits import DigitsNet

pytestmark = pytest.mark.slow


class Two(LightningModule):
    """Takes two tensors and a flag, by name, and gives two back; optimizes nothing."""

    def __init__(self, *, width: int = 4) -> None:
        super().__init__()
        self.layer = nn.Linear(3, width)
        self.example_input_array = {"x": torch.zeros(1, 3), "index": torch.ones(1, dtype=torch.long)}

    def forward(self, x: Tensor, index: Tensor, double: bool = False) -> dict[str, Tensor]:
        """`x` (B, 3) and `index` (B,) to `y` (B, width) and `z` (B,)."""
        y = self.layer(x) * (2 if double else 1)
        return {"y": y, "z": y.sum(dim=1) * index}


class Silent(LightningModule):
    """Does not say what its input looks like."""


def saved(folder: SweepFolder, spec: Spec, module: LightningModule, **params: Any) -> TrialRecord:
    """The best trial, with a checkpoint of this module."""
    best = ranked(spec.goal, Ledger(folder, spec, read_only=True).records)[0]
    path = Path(folder.show(folder.checkpoint(best.number, best.best_epoch or 1)))
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": module.state_dict()}, path)
    fields = {name: getattr(best, name) for name in TrialRecord.__dataclass_fields__}
    return TrialRecord(**{**fields, "params": params})


def test_the_winner_is_exported_by_one_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, spec = simulate(tmp_path, 4)
    best = ranked(spec.goal, Ledger(folder, spec, read_only=True).records)[0]
    net = DigitsNet(**best.params).eval()
    saved(folder, spec, net)
    where = folder.show("").rstrip("/")
    assert cli.main(["export", where, "--output", str(tmp_path / "copy.onnx")]) == 0
    assert "outputs differ from the module's by at most" in capsys.readouterr().out
    session = onnxruntime.InferenceSession(tmp_path / "copy.onnx", providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == ["batch", 1, 8, 8]
    images = torch.rand(17, 1, 8, 8)
    [found] = session.run(None, {"x": images.numpy()})
    torch.testing.assert_close(torch.as_tensor(found), net(images).detach(), rtol=1e-3, atol=1e-4)
    assert Path(folder.show(folder.onnx(best.number))).read_bytes() == (tmp_path / "copy.onnx").read_bytes()
    assert cli.main(["export", where, "--trial", "99"]) == 2
    assert "no trial 99" in capsys.readouterr().err


def test_inputs_by_name_and_several_outputs(tmp_path: Path) -> None:
    folder, spec = simulate(tmp_path, 4, trainable={"model": {"class_path": f"{__name__}.Two"}})
    record = saved(folder, spec, Two(width=8), width=8)
    assert export.to_onnx(spec, folder, record) < 1e-5


def test_what_cannot_be_exported_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, spec = simulate(tmp_path, 4, trainable={"model": {"class_path": f"{__name__}.Silent"}})
    with pytest.raises(SweepError, match="Silent does not say what its input looks like"):
        export.to_onnx(spec, folder, saved(folder, spec, Silent()))
    spec = spec.model_copy(
        update={
            "trainable": Spec.model_validate(
                {**spec.model_dump(), "trainable": {"model": {"class_path": f"{__name__}.Two"}}}
            ).trainable
        }
    )
    record = saved(folder, spec, Two())
    real = torch.onnx.export
    monkeypatch.setattr(torch.onnx, "export", lambda module, *args, **kwargs: real(Two().eval(), *args, **kwargs))
    with pytest.raises(SweepError, match="the exported model computes something else"):
        export.to_onnx(spec, folder, record)
    assert not Path(folder.show(folder.onnx(record.number))).exists(), "what is wrong is not left behind"
