"""Run by the Python of .venv-oracle: what OpenCV computes of the darknet files in a folder.

Args: the folder. For every NAME.cfg with NAME.weights and NAME.npy, the image as (1, 3, H, W), it writes NAME.npz: the
raw outputs of the convolutions before [yolo], as "raw0", "raw1" in the order of the file, and the rows (x, y, w, h,
objectness, scores) that the [yolo] layers make of them, as "rows0" and so on.
"""

import sys
from pathlib import Path

import cv2
import numpy as np

for cfg in sorted(Path(sys.argv[1]).glob("*.cfg")):
    net = cv2.dnn.readNetFromDarknet(str(cfg), str(cfg.with_suffix(".weights")))
    net.setPreferableBackend(cv2.dnn.DNN_BACKEND_OPENCV)
    net.enableFusion(False)
    net.enableWinograd(False)  # its 3x3 convolutions are off by five times as much as plain float32 sums
    kinds = [line.strip() for line in cfg.read_text().splitlines() if line.startswith("[")][1:]
    places = [number for number, kind in enumerate(kinds) if kind == "[yolo]"]
    net.setInput(np.load(cfg.with_suffix(".npy")))
    names = [f"conv_{place - 1}" for place in places] + [f"yolo_{place}" for place in places]
    outputs = net.forward(names)
    keys = [f"{kind}{number}" for kind in ("raw", "rows") for number in range(len(places))]
    np.savez(cfg.with_suffix(".npz"), **dict(zip(keys, outputs, strict=True)))
