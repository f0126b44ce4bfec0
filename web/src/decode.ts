// As pocketdet/core/decode.py: raw head outputs to boxes.

import type { Box } from "./letterbox";
import type { Metadata } from "./metadata";

/** Raw head outputs of one level of one picture: (A * 4, H, W), (A, H, W) and (A * K, H, W). */
export interface LevelLogits {
  boxes: Float32Array;
  objectness: Float32Array;
  classes: Float32Array;
  height: number;
  width: number;
}

export interface Detection {
  box: Box; // input pixels
  score: number;
  classId: number;
}

const MAX_CANDIDATES = 3000;
const MAX_DETECTIONS = 300;
const VOTE_OVERLAP = 0.5;
const VOTE_RAMP = 0.2;
const VOTE_SHARE = 0.25;

/** Boxes in input pixels, best score first. */
export function decode(
  levels: LevelLogits[],
  metadata: Metadata,
  scoreThreshold: number,
  iouThreshold: number,
): Detection[] {
  const found = levels
    .flatMap((level, n) => decodeLevel(level, metadata, n, VOTE_SHARE * scoreThreshold))
    .sort((a, b) => b.score - a.score)
    .slice(0, MAX_CANDIDATES);
  const good = found.filter((one) => one.score > scoreThreshold);
  return suppress(good, iouThreshold).map((best) => vote(best, found, iouThreshold));
}

function decodeLevel(level: LevelLogits, metadata: Metadata, n: number, scoreThreshold: number): Detection[] {
  const { boxes, objectness, classes, height, width } = level;
  const [anchors, stride, scaleXy] = [metadata.anchors[n], metadata.strides[n], metadata.scale_xy[n]];
  const numClasses = metadata.class_names.length;
  const cells = height * width;
  const floor = Math.log(scoreThreshold / (1 - scoreThreshold)); // a score never exceeds its objectness
  const found: Detection[] = [];
  for (let place = 0; place < objectness.length; place++) {
    if (!(objectness[place] > floor)) continue;
    const [anchor, cell] = [Math.floor(place / cells), place % cells];
    const probability = sigmoid(objectness[place]);
    for (let classId = 0; classId < numClasses; classId++) {
      const score = probability * sigmoid(classes[(anchor * numClasses + classId) * cells + cell]);
      if (!(score > scoreThreshold)) continue;
      const [tx, ty, tw, th] = [0, 1, 2, 3].map((part) => boxes[(anchor * 4 + part) * cells + cell]);
      // Grid sensitivity, YOLOv4 §3.4.
      const centre = (t: number, at: number) => (sigmoid(t) * scaleXy - (scaleXy - 1) / 2 + at) * stride;
      const half = (t: number, side: number) => (Math.exp(Math.min(Math.max(t, -20), 20)) * side) / 2;
      const [x, y] = [centre(tx, cell % width), centre(ty, Math.floor(cell / width))];
      const [w, h] = [half(tw, anchors[anchor][0]), half(th, anchors[anchor][1])];
      found.push({ box: [x - w, y - h, x + w, y + h], score, classId });
    }
  }
  return found;
}

function sigmoid(x: number): number {
  return 1 / (1 + Math.exp(-x));
}

/** Greedy NMS within each class, of boxes with the best score first. */
export function suppress(found: Detection[], iouThreshold: number): Detection[] {
  let rest = found;
  const keep: Detection[] = [];
  while (rest.length && keep.length < MAX_DETECTIONS) {
    const best = rest[0];
    keep.push(best);
    rest = rest.slice(1).filter((one) => one.classId !== best.classId || iou(one.box, best.box) <= iouThreshold);
  }
  return keep;
}

/** The mean of a box and of those of its class near it, by the squares of their scores: box voting, 1505.01749. */
function vote(best: Detection, found: Detection[], iouThreshold: number): Detection {
  const least = Math.max(iouThreshold, VOTE_OVERLAP);
  const sum = [0, 0, 0, 0, 0];
  for (const one of found) {
    if (one.classId !== best.classId) continue;
    const near = Math.min(Math.max((iou(one.box, best.box) - least) / VOTE_RAMP, 0), 1);
    const weight = near * Math.max((one.score / best.score) ** 2 - VOTE_SHARE ** 2, 0);
    [...one.box, 1].forEach((side, n) => (sum[n] += weight * side));
  }
  if (!(sum[4] > 0)) return best;
  const [x1, y1, x2, y2] = sum.map((side) => side / sum[4]);
  return { ...best, box: [x1, y1, x2, y2] };
}

export function iou(a: Box, b: Box): number {
  const width = Math.min(a[2], b[2]) - Math.max(a[0], b[0]);
  const height = Math.min(a[3], b[3]) - Math.max(a[1], b[1]);
  const shared = Math.max(0, width) * Math.max(0, height);
  const union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared;
  return union > 0 ? shared / union : 0;
}
