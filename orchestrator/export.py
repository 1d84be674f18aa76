"""A trained trial as an ONNX file, checked against the module it came from (torch.onnx, onnxruntime)."""

from __future__ import annotations

import inspect
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from orchestrator import arguments, catalog
from orchestrator.errors import SweepError
from orchestrator.folder import SweepFolder
from orchestrator.ledger import TrialRecord
from orchestrator.messages import first_line
from orchestrator.spec import Spec

# How far the two may be apart: what other kernels and another order of sums make of single precision.
RTOL, ATOL = 1e-3, 1e-4
# Batches that are compared: one that was not traced, and the smallest.
BATCHES = (3, 1)


def to_onnx(spec: Spec, folder: SweepFolder, record: TrialRecord) -> float:
    """Export a trial's best checkpoint to `trials/<number>/model.onnx` of the sweep's folder.

    The module's `forward` is exported, in evaluation mode, with its `example_input_array` as the input; the first axis
    of every input is a batch of any size.

    Returns:
        The largest absolute difference between the outputs of onnxruntime and of the module.

    Raises:
        SweepError: the trial cannot be exported, or the exported model computes something else.
    """
    if record.checkpoint is None:
        raise SweepError(f"trial {record.number} has no checkpoint to export: none was kept (checkpoints.keep)")
    with tempfile.TemporaryDirectory() as scratch:
        module = _load(spec, folder.local_copy(record.checkpoint, Path(scratch)), record)
        with folder.writing(folder.onnx(record.number), Path(scratch)) as path:
            _export(module, path)
            return _check(module, path)


def _load(spec: Spec, checkpoint: Path, record: TrialRecord) -> Any:
    trainable = catalog.load_trainable(
        spec.trainable if isinstance(spec.trainable, str) else spec.trainable.model_dump()
    )
    build = getattr(trainable, "model", None)
    if build is None:
        raise SweepError("only a LightningModule can be exported; a training function has its own way to")
    module = arguments.call(build, trainable.route({**spec.params, **record.params})["model"])
    if getattr(module, "example_input_array", None) is None:
        raise SweepError(
            f"{type(module).__name__} does not say what its input looks like; set self.example_input_array in its"
            " __init__, e.g. to torch.zeros(1, 3, 32, 32)"
        )
    module.configure_model()
    # What the sweep itself has written; a checkpoint of Lightning's holds more than weights.
    module.load_state_dict(torch.load(checkpoint, map_location="cpu", weights_only=False)["state_dict"])
    return module.float().eval()


def _export(module: Any, path: Path) -> None:
    inputs = _inputs(module, batch=2)  # an axis of size 1 would be taken for one that is always 1
    batch = torch.export.Dim("batch")
    shapes = {name: {0: batch} if isinstance(value, Tensor) else None for name, value in inputs.items()}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter's own use of torch
            torch.onnx.export(
                module, (), path, kwargs=inputs, dynamic_shapes=shapes, external_data=False, verbose=False
            )
    except ImportError as exc:
        raise _missing(exc) from exc
    except Exception as exc:  # the exporter has a class of its own for each stage of it
        raise SweepError(f"{type(module).__name__} cannot be exported to ONNX: {first_line(exc)}") from exc


def _check(module: Any, path: Path) -> float:
    """Compare the outputs for batches of several sizes; the largest difference."""
    try:
        import onnxruntime
    except ImportError as exc:
        raise _missing(exc) from exc
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    furthest = 0.0
    for batch in BATCHES:
        inputs = _inputs(module, batch)
        given = {node.name: inputs[node.name].numpy() for node in session.get_inputs()}
        with torch.no_grad():
            expected = list(_tensors(module(**inputs)))
        for want, found in zip(expected, map(torch.as_tensor, session.run(None, given)), strict=True):
            furthest = max(furthest, float((want - found).abs().max()))
            if not torch.allclose(found, want, rtol=RTOL, atol=ATOL):
                raise SweepError(f"the exported model computes something else: it is {furthest:.3g} off")
    return furthest


def _inputs(module: Any, batch: int) -> dict[str, Any]:
    """Arguments of `forward` by name: numbers drawn in the example's shapes, the first axis as long as asked for."""
    example = module.example_input_array
    named = dict(example) if isinstance(example, Mapping) else {}
    given = () if named else example if isinstance(example, tuple) else (example,)
    source = torch.Generator().manual_seed(batch)

    def resized(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        rows = value[:1].repeat(batch, *[1] * (value.dim() - 1))
        return torch.randn(rows.shape, generator=source, dtype=rows.dtype) if rows.is_floating_point() else rows

    bound = inspect.signature(module.forward).bind(*given, **named)
    return {name: resized(value) for name, value in bound.arguments.items()}


def _tensors(output: Any) -> Iterator[Tensor]:
    """The tensors in what a module returns, in ONNX's order."""
    if isinstance(output, Tensor):
        yield output
    else:
        for part in output.values() if isinstance(output, Mapping) else output:
            yield from _tensors(part)


def _missing(exc: ImportError) -> SweepError:
    return SweepError(f"exporting needs the package {exc.name}: pip install 'sweep-orchestrator[export]'")
