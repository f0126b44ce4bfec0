"""Decoding and non-maximum suppression within an ONNX graph: ``core.decode`` in ONNX's words."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pocketdet.core.decode import VOTE_OVERLAP, VOTE_RAMP, VOTE_SHARE, LevelLogits
from pocketdet.core.metadata import ModelMetadata
from pocketdet.runtime.backends import output_names
from pocketdet.runtime.backends.backend import THRESHOLDS, expected_shapes
from pocketdet.runtime.predictor import IOU_THRESHOLD, SCORE_THRESHOLD

if TYPE_CHECKING:
    import onnx

Constant = NDArray[Any] | np.float32 | np.int64
MAX_DETECTIONS = 300  # as ``core.decode``'s

# Of one level; cells come in the order of ``core.decode``: anchor, row, column.
_DECODE = """
t = Reshape (boxes, box_shape)
txy, twh = Split <axis = 2, num_outputs = 2> (t)
near = Sigmoid (txy)
spread = Mul (near, reach)
centre = Add (spread, place)
bounded = Clip (twh, low, high)
factor = Exp (bounded)
half = Mul (factor, half_anchor)
first = Sub (centre, half)
last = Add (centre, half)
objects = Reshape (objectness, object_shape)
object_probability = Sigmoid (objects)
kinds = Reshape (classes, class_shape)
class_probability = Sigmoid (kinds)
score = Mul (object_probability, class_probability)
columns = Concat <axis = 2> (first, last, score)
rows = Transpose <perm = [0, 1, 3, 2]> (columns)
cells = Reshape (rows, cell_shape)
"""

# Where the size is open, place = (corner - shift) * stride of each cell is computed.
_PLACE = """
grid = Shape <start = 2, end = 4> (objectness)
height, width = Split <num_outputs = 2> (grid)
area = Mul (height, width)
end = Squeeze (area)
cell = Range (zero, end, one)
row = Div (cell, width)
column = Mod (cell, width)
corner = Concat <axis = 0> (column, row)
pair = Reshape (corner, pair_shape)
number = Cast <to = 1> (pair)
inner = Sub (number, shift)
place = Mul (inner, stride)
"""

_SUPPRESS = """
cell_boxes, cell_scores = Split <axis = 2> (detections, box_and_classes)
class_scores = Transpose <perm = [0, 2, 1]> (cell_scores)
kept = NonMaxSuppression (cell_boxes, class_scores, most, iou_threshold, score_threshold)
kept_scores = GatherND (class_scores, kept)
whole_shape = Shape (class_scores)
nothing = ConstantOfShape (whole_shape)
only_kept = ScatterND (nothing, kept, kept_scores)
in_a_row = Reshape (only_kept, row_shape)
row_length = Shape <start = 1> (in_a_row)
num_rows = Min (most, row_length)
scores, best = TopK <axis = 1> (in_a_row, num_rows)
num_cells = Shape <start = 1, end = 2> (detections)
labels = Div (best, num_cells)
cell = Mod (best, num_cells)
cell_index = Unsqueeze (cell, last_axis)
best_boxes = GatherND <batch_dims = 1> (cell_boxes, cell_index)
is_object = Greater (scores, silence)
objects = Cast <to = 7> (is_object)
count = ReduceSum <keepdims = 0> (objects, rows_axis)
"""

# Only rows that hold objects, so that it takes no time for the others.
_VOTE = """
most_objects = ReduceMax <keepdims = 0> (count)
end = Reshape (most_objects, flat)
mine = Slice (best_boxes, start, end, rows_axis)
my_labels = Slice (labels, start, end, rows_axis)
rest = Slice (best_boxes, end, most, rows_axis)
my_box = Unsqueeze (mine, last_axis)
box = Unsqueeze (cell_boxes, rows_axis)
my_first, my_last = Split <axis = 3, num_outputs = 2> (my_box)
first, last = Split <axis = 3, num_outputs = 2> (box)
shared_first = Max (my_first, first)
shared_last = Min (my_last, last)
shared_sides = Sub (shared_last, shared_first)
shared_real = Max (shared_sides, silence)
shared_area = ReduceProd <keepdims = 0> (shared_real, side_axis)
my_sides = Sub (my_last, my_first)
my_area = ReduceProd <keepdims = 0> (my_sides, side_axis)
sides = Sub (last, first)
area = ReduceProd <keepdims = 0> (sides, side_axis)
both = Add (my_area, area)
union = Sub (both, shared_area)
overlap = Div (shared_area, union)
least = Max (iou_threshold, vote_overlap)
above = Sub (overlap, least)
part = Div (above, vote_ramp)
near = Clip (part, silence, whole)
label_index = Unsqueeze (my_labels, last_axis)
class_score = GatherND <batch_dims = 1> (class_scores, label_index)
my_scores = Slice (scores, start, end, rows_axis)
my_score = Unsqueeze (my_scores, last_axis)
ratio = Div (class_score, my_score)
square = Mul (ratio, ratio)
more = Sub (square, vote_floor)
right = Max (more, silence)
votes = Mul (near, right)
sums = MatMul (votes, cell_boxes)
total = ReduceSum (votes, last_axis)
mean = Div (sums, total)
has_votes = Greater (total, silence)
voted = Where (has_votes, mean, mine)
boxes = Concat <axis = 1> (voted, rest)
"""


def append_boxes(model: "onnx.ModelProto", metadata: ModelMetadata) -> None:
    """Let a graph give boxes, in float: ``detections``, or what its own NMS leaves of them.

    Args:
        model: Ends in raw logits; it is changed.
        metadata: Its ``outputs`` say what is wanted.
    """
    import onnx

    graph = model.graph
    grids = {value.name: [side.dim_value for side in value.type.tensor_type.shape.dim[2:]] for value in graph.output}
    names = output_names(len(metadata.strides))
    cells = []
    for level in range(len(metadata.strides)):
        own = dict(zip(LevelLogits._fields, names[3 * level : 3 * level + 3], strict=True))
        constants = _level_constants(metadata, level)
        grid = grids[own["objectness"]]
        if all(grid):
            constants["place"] = _places(grid, constants["shift"], constants["stride"])
        else:
            _append(graph, _PLACE, constants, f"level{level}_", own)
        _append(graph, _DECODE, constants, f"level{level}_", own)
        cells.append(f"level{level}_cells")
    graph.node.append(onnx.helper.make_node("Concat", cells, ["detections"], axis=1))
    if metadata.outputs == "suppressed":
        _append_nms(graph, metadata)
    del graph.output[:], graph.value_info[:]
    for name, shape in expected_shapes(metadata).items():
        kind = onnx.TensorProto.INT64 if name in ("labels", "count") else onnx.TensorProto.FLOAT
        sides = ["batch", *(size or f"{name}_axis{axis}" for axis, size in enumerate(shape[1:], 1))]
        graph.output.append(onnx.helper.make_tensor_value_info(name, kind, sides))


def _append_nms(graph: "onnx.GraphProto", metadata: ModelMetadata) -> None:
    """The thresholds are inputs with a default."""
    import onnx

    own = ("detections", *THRESHOLDS, *expected_shapes(metadata))
    constants: dict[str, Constant] = {
        "box_and_classes": np.array([4, len(metadata.class_names)]),
        "most": np.array([MAX_DETECTIONS]),
        "row_shape": np.array([0, -1]),
        "last_axis": np.array([2]),
        "rows_axis": np.array([1]),
        "silence": np.float32(0),
        "flat": np.array([1]),
        "start": np.array([0]),
        "side_axis": np.array([3]),
        "vote_overlap": np.float32(VOTE_OVERLAP),
        "vote_ramp": np.float32(VOTE_RAMP),
        "vote_floor": np.float32(VOTE_SHARE**2),
        "whole": np.float32(1),
    }
    for text in (_SUPPRESS, _VOTE):
        _append(graph, text, constants, "nms_", dict(zip(own, own, strict=True)))
    for name, value in zip(THRESHOLDS, (SCORE_THRESHOLD, IOU_THRESHOLD), strict=True):
        graph.input.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]))
        graph.initializer.append(onnx.numpy_helper.from_array(np.array([value], np.float32), name))


def _level_constants(metadata: ModelMetadata, level: int) -> dict[str, Constant]:
    anchors, num_classes = np.array(metadata.anchors[level], np.float32), len(metadata.class_names)
    stride, scale_xy = metadata.strides[level], metadata.scale_xy[level]
    return {
        "box_shape": np.array([0, len(anchors), 4, -1]),
        "object_shape": np.array([0, len(anchors), 1, -1]),
        "class_shape": np.array([0, len(anchors), num_classes, -1]),
        "cell_shape": np.array([0, -1, 4 + num_classes]),
        "pair_shape": np.array([1, 1, 2, -1]),
        "reach": np.float32(scale_xy * stride),
        "shift": np.float32((scale_xy - 1) / 2),
        "stride": np.float32(stride),
        "low": np.float32(-20),
        "high": np.float32(20),
        "half_anchor": anchors[None, :, :, None] / 2,
        "zero": np.int64(0),
        "one": np.int64(1),
    }


def _places(grid: Sequence[int], shift: Constant, stride: Constant) -> Constant:
    """``(1, 1, 2, height * width)``, x and y of where a cell's centre may begin, input pixels."""
    height, width = grid
    row, column = np.divmod(np.arange(height * width, dtype=np.float32), width)
    places = (np.stack((column, row)) - shift) * stride
    return places.astype(np.float32)[None, None]


def _append(
    graph: "onnx.GraphProto", text: str, constants: Mapping[str, Constant], prefix: str, given: Mapping[str, str]
) -> None:
    """Nodes, a line each; names that are not given get a prefix. Of the constants those come along that are used."""
    import onnx

    here = {tensor.name for tensor in graph.initializer}
    for line in text.strip().splitlines():
        node = onnx.parser.parse_node(line)
        for name in {*node.input} & constants.keys():
            if prefix + name not in here:
                graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(constants[name]), prefix + name))
                here.add(prefix + name)
        node.input[:] = [given.get(name, prefix + name) for name in node.input]
        node.output[:] = [given.get(name, prefix + name) for name in node.output]
        graph.node.append(node)
