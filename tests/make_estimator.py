"""A stand-in for DWPose: two ONNX networks of a few nodes, which see one person in every picture that is blue.

Their inputs and outputs are laid out as those of DWPose's own files. Both look at one colour only, each in the order
of channels that it was trained with, so a picture whose channels are swapped shows nobody.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

DET_FILE, POSE_FILE = "yolox.onnx", "rtmpose.onnx"
SIDE = 64  # px, of the detector's input
WIDTH, HEIGHT = 48, 64  # px, of the other's
BOX = (16, 8, 48, 56)  # x0 y0 x1 y1 of the person in the detector's input
NUM_WHOLE_BODY = 133  # points
POINTS = np.random.default_rng(0).integers(4, (2 * WIDTH - 4, 2 * HEIGHT - 4), (NUM_WHOLE_BODY, 2))  # half pixels
_COLUMNS = 5 + 80  # box, objectness, COCO's classes


def make_estimator(folder: Path) -> None:
    """Write both files."""
    folder.mkdir(parents=True, exist_ok=True)
    cells = (SIDE // 8) ** 2 + (SIDE // 16) ** 2 + (SIDE // 32) ** 2
    boxes, strength = np.zeros((1, cells, _COLUMNS), np.float32), np.zeros((1, cells, _COLUMNS), np.float32)
    # the last cell, whose upper left corner is (32, 32), and its neighbour, which says the same a little less surely
    middle, extent = np.array([BOX[0] + BOX[2], BOX[1] + BOX[3]]) / 2, np.array([BOX[2] - BOX[0], BOX[3] - BOX[1]])
    for cell, corner, score in ((-1, (1, 1), 0.9), (-2, (0, 1), 0.8)):
        boxes[0, cell, :2] = middle / 32 - corner
        boxes[0, cell, 2:4] = np.log(extent / 32)
        strength[0, cell, 4], boxes[0, cell, 5] = score / 255, 1.0  # blue is 255
    boxes[0, 0, 6] = strength[0, 0, 4] = 1.0  # a bicycle
    _save(folder / DET_FILE, SIDE, SIDE, 0, {"output": (boxes, strength)})
    along = {}
    for name, places, size in (("simcc_x", POINTS[:, 0], 2 * WIDTH), ("simcc_y", POINTS[:, 1], 2 * HEIGHT)):
        peaks = np.zeros((1, NUM_WHOLE_BODY, size), np.float32)
        peaks[0, np.arange(NUM_WHOLE_BODY), places] = 0.3  # blue is 2.6
        along[name] = (np.zeros_like(peaks), peaks)
    _save(folder / POSE_FILE, WIDTH, HEIGHT, 2, along)


def _save(file: Path, width: int, height: int, channel: int, outputs: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """A network whose outputs are a + b * (mean of one channel of its input)."""
    weights = [numpy_helper.from_array(np.array([channel]), "channel")]
    nodes = [
        helper.make_node("Gather", ["input", "channel"], ["seen"], axis=1),
        helper.make_node("GlobalAveragePool", ["seen"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Unsqueeze", ["flat", "axis"], ["mean"]),
    ]
    weights.append(numpy_helper.from_array(np.array([2]), "axis"))
    shown = []
    for name, (a, b) in outputs.items():
        weights += [numpy_helper.from_array(a, f"{name}_a"), numpy_helper.from_array(b, f"{name}_b")]
        nodes.append(helper.make_node("Mul", ["mean", f"{name}_b"], [f"{name}_m"]))
        nodes.append(helper.make_node("Add", [f"{name}_m", f"{name}_a"], [name]))
        shown.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", *a.shape[1:]]))
    picture = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 3, height, width])
    graph = helper.make_graph(nodes, file.stem, [picture], shown, weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), file)
