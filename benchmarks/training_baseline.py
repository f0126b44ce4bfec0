"""The training step that people run today, rebuilt from its description, for ``benchmarks/training.py``.

Fixed-neck YOLOv4 on MobileNet V2 in float32 and NCHW; a loss with loops over pictures and targets; every picture of a
mosaic decoded from its file and resized by Pillow when it is needed. Only the network is ours, layer for layer equal.
"""

import math
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pocketdet.core.metadata import ModelMetadata
from pocketdet.datasets.load import load_dataset
from pocketdet.datasets.records import Record
from pocketdet.models.detector import build_from_metadata
from pocketdet.models.head import HeadOutput

IGNORE_IOU, SHAPE_IOU = 0.5, 0.213
Item = tuple[np.ndarray, np.ndarray]  # (3, H, W) float32; (T, 5) boxes and classes, input pixels


def mosaic_item(records: list[Record], size: int, rng: np.random.Generator) -> Item:
    centre_x, centre_y = (int(size * rng.uniform(0.3, 0.7)) for _ in range(2))
    canvas, boxes = np.full((size, size, 3), 128, np.uint8), []
    for quarter, index in enumerate(rng.integers(len(records), size=4)):
        picture, targets = place(records[index], size, rng)
        left, top = (0 if quarter % 2 == 0 else centre_x), (0 if quarter < 2 else centre_y)
        right, bottom = (centre_x if quarter % 2 == 0 else size), (centre_y if quarter < 2 else size)
        canvas[top:bottom, left:right] = picture[top:bottom, left:right]
        targets[:, [0, 2]] = targets[:, [0, 2]].clip(left, right)
        targets[:, [1, 3]] = targets[:, [1, 3]].clip(top, bottom)
        boxes.append(targets[(targets[:, 2:4] - targets[:, :2]).min(axis=1, initial=size) > 1])
    gains = rng.uniform(-1, 1, 3) * (0.1, 0.7, 0.4) + 1
    planes = cv2.split(cv2.cvtColor(canvas, cv2.COLOR_RGB2HSV))
    tables = [(np.arange(256) * gain % 180 if k == 0 else (np.arange(256) * gain).clip(0, 255)).astype(np.uint8)
              for k, gain in enumerate(gains)]  # fmt: skip
    changed = cv2.merge([cv2.LUT(plane, table) for plane, table in zip(planes, tables, strict=True)])
    pixels = np.array(cv2.cvtColor(changed, cv2.COLOR_HSV2RGB), np.float32) / 255.0
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)), np.concatenate(boxes)


def place(record: Record, size: int, rng: np.random.Generator) -> Item:
    with Image.open(record.path) as file:
        image = file.convert("RGB")
    aspect, scale = image.width / image.height * rng.uniform(0.7, 1.4), rng.uniform(0.4, 1)
    height, width = (int(scale * size), int(scale * size * aspect)) if aspect < 1 else (
        int(scale * size / aspect), int(scale * size))  # fmt: skip
    left, top = (int(rng.uniform(0, max(1, size - side))) for side in (width, height))
    canvas = Image.new("RGB", (size, size), (128, 128, 128))
    canvas.paste(image.resize((width, height), Image.Resampling.BICUBIC), (left, top))
    factor = np.array([width / image.width, height / image.height] * 2)
    boxes = record.boxes * factor + np.array([left, top] * 2)
    pixels = np.array(canvas)
    if rng.random() < 0.5:
        pixels, boxes = pixels[:, ::-1], np.stack((size - boxes[:, 2], boxes[:, 1], size - boxes[:, 0], boxes[:, 3]), 1)
    return pixels, np.concatenate((boxes, record.class_ids[:, None]), axis=1).astype(np.float32)


def looped_loss(outputs: list[HeadOutput], targets: list[Tensor], metadata: ModelMetadata) -> Tensor:
    """Level by level, picture by picture, target by target; the terms on whole grids."""
    total, positives = torch.zeros(()), 0.0
    anchors = torch.tensor(metadata.anchors, dtype=torch.float32)
    for level, (output, stride, scale_xy) in enumerate(zip(outputs, metadata.strides, metadata.scale_xy, strict=True)):
        batch, num_anchors, height, width = output.objectness.shape
        num_classes = output.classes.shape[1] // num_anchors
        wanted, is_positive, learns_nothing, wanted_classes = (
            torch.zeros(batch, num_anchors, height, width, channels) for channels in (4, 1, 1, num_classes)
        )
        for picture in range(batch):
            for target in targets[picture]:
                size = target[2:4] - target[:2]
                shared = torch.minimum(size, anchors).prod(dim=-1)
                fit = shared / (size.prod() + anchors.prod(dim=-1) - shared)
                centre = (target[:2] + target[2:4]) / 2 / stride
                column, row = min(int(centre[0]), width - 1), min(int(centre[1]), height - 1)
                for anchor in range(num_anchors):
                    if fit[level, anchor] > SHAPE_IOU or fit.argmax() == level * num_anchors + anchor:
                        wanted[picture, anchor, row, column] = target[:4]
                        is_positive[picture, anchor, row, column] = 1
                        wanted_classes[picture, anchor, row, column, int(target[4])] = 1
        raw = output.boxes.view(batch, num_anchors, 4, height, width).permute(0, 1, 3, 4, 2)
        rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        centre = (raw[..., :2].sigmoid() * scale_xy - (scale_xy - 1) / 2 + torch.stack((columns, rows), -1)) * stride
        half = raw[..., 2:].exp() * anchors[level][:, None, None] / 2
        boxes = torch.cat((centre - half, centre + half), dim=-1)
        for picture in range(batch):
            if len(targets[picture]):
                overlaps = pairwise_iou(targets[picture][:, :4], boxes[picture].detach().reshape(-1, 4))
                learns_nothing[picture] = (overlaps.amax(dim=0) > IGNORE_IOU).float().view_as(learns_nothing[picture])
        mask = is_positive[..., 0] > 0
        total = total + (1 - ciou(boxes, wanted))[mask].sum() * 3
        weight = torch.where(mask[..., None], 1.0, 1 - learns_nothing)
        total = total + (bce(output.objectness[..., None].sigmoid(), is_positive) * weight).sum()
        classes = output.classes.view(batch, num_anchors, num_classes, height, width).permute(0, 1, 3, 4, 2)
        total = total + bce(classes.sigmoid(), wanted_classes)[mask].sum()
        positives += float(mask.sum())
    return total / max(1.0, positives)


def pairwise_iou(some: Tensor, others: Tensor) -> Tensor:
    shared = torch.minimum(some[:, None, 2:], others[:, 2:]) - torch.maximum(some[:, None, :2], others[:, :2])
    intersection = shared.clamp(min=0).prod(dim=2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(dim=1) for boxes in (some, others)]
    return intersection / (areas[0][:, None] + areas[1] - intersection)


def ciou(boxes: Tensor, targets: Tensor) -> Tensor:
    size, target_size = boxes[..., 2:] - boxes[..., :2], targets[..., 2:] - targets[..., :2]
    low, high = torch.maximum(boxes[..., :2], targets[..., :2]), torch.minimum(boxes[..., 2:], targets[..., 2:])
    intersection = (high - low).clamp(min=0).prod(dim=-1)
    iou = intersection / (size.prod(dim=-1) + target_size.prod(dim=-1) - intersection).clamp(min=1e-6)
    hull = torch.maximum(boxes[..., 2:], targets[..., 2:]) - torch.minimum(boxes[..., :2], targets[..., :2])
    offset = (boxes[..., :2] + boxes[..., 2:] - targets[..., :2] - targets[..., 2:]) / 2
    ratios = [torch.atan(pair[..., 0] / pair[..., 1].clamp(min=1e-6)) for pair in (size, target_size)]
    shape = 4 / math.pi**2 * (ratios[0] - ratios[1]) ** 2
    alpha = shape / (1 - iou + shape).clamp(min=1e-6)
    return iou - offset.square().sum(-1) / hull.square().sum(-1).clamp(min=1e-6) - alpha * shape


def bce(probability: Tensor, target: Tensor) -> Tensor:
    p = probability.clamp(1e-7, 1 - 1e-7)
    return -target * torch.log(p) - (1 - target) * torch.log(1 - p)


def baseline_steps(data: Path, size: int, batch_size: int) -> Iterator[dict[str, float]]:
    """One step at a time; seconds of its parts."""
    dataset = load_dataset(data)
    records, rng = list(dataset.records), np.random.default_rng(0)
    metadata = ModelMetadata("mobilenet_v2", 1.0, 1.0, "symmetric", dataset.class_names, (size, size))
    torch.manual_seed(0)
    detector = build_from_metadata(metadata).train()
    optimizer = torch.optim.Adam(detector.parameters(), lr=1e-3)
    while True:
        start = time.perf_counter()
        items = [mosaic_item(records, size, rng) for _ in range(batch_size)]
        images = torch.from_numpy(np.stack([item[0] for item in items]))
        targets = [torch.from_numpy(item[1]) for item in items]
        loaded = time.perf_counter()
        optimizer.zero_grad()
        looped_loss(detector(images), targets, metadata).backward()
        optimizer.step()
        end = time.perf_counter()
        yield {"data": loaded - start, "step": end - start}
