"""Darknet configurations, written from the structure in the papers; ``width`` multiplies the channels."""

V3_ANCHORS = "10,13, 16,30, 33,23, 30,61, 62,45, 59,119, 116,90, 156,198, 373,326"
V4_ANCHORS = "12,16, 19,36, 40,28, 36,75, 76,55, 72,146, 142,110, 192,243, 459,401"
TINY_ANCHORS = "10,14, 23,27, 37,58, 81,82, 135,169, 344,319"


class Cfg:
    """Sections in a row; counts the layers, so that routes can name them."""

    def __init__(self, size: int, width: float, activation: str) -> None:
        self.sections = [f"[net]\nwidth={size}\nheight={size}\nchannels=3\nbatch=64\nlearning_rate=0.001 # a comment"]
        self.width, self.activation = width, activation

    def add(self, kind: str, **options: object) -> int:
        """The number of the new layer, from 0."""
        self.sections.append("\n".join((f"[{kind}]", *(f"{name} = {value}" for name, value in options.items()))))
        return len(self.sections) - 2

    def channels(self, count: int) -> int:
        return max(8, int(count * self.width) // 8 * 8)

    def conv(self, filters: int, size: int, stride: int = 1, activation: str = "", groups: int = 1) -> int:
        extra = {"groups": groups} if groups > 1 else {}
        return self.add(
            "convolutional",
            batch_normalize=1,
            filters=self.channels(filters),
            size=size,
            stride=stride,
            pad=1,
            activation=activation or self.activation,
            **extra,
        )

    def route(self, *layers: int, **options: int) -> int:
        return self.add("route", layers=", ".join(map(str, layers)), **options)

    def yolo(self, mask: str, anchors: str, num_classes: int, **options: object) -> None:
        filters = len(mask.split(",")) * (5 + num_classes)
        self.add("convolutional", size=1, stride=1, pad=1, filters=filters, activation="linear")
        num = len(anchors.split(",")) // 2
        self.add("yolo", mask=mask, anchors=anchors, classes=num_classes, num=num, jitter=0.3, **options)

    def text(self) -> str:
        return "\n\n".join(self.sections) + "\n"


def yolov4(num_classes: int = 80, width: float = 1.0, size: int = 608) -> str:
    """CSPDarknet53 (1911.11929, YOLOv4 table 1), SPP, PANet: 2004.10934 §3.4."""
    cfg = Cfg(size, width, "mish")
    cfg.conv(32, 3)
    taps = []
    for channels, repeats in ((64, 1), (128, 2), (256, 8), (512, 8), (1024, 4)):
        half = channels if channels == 64 else channels // 2  # the first stage is not halved
        cfg.conv(channels, 3, 2)
        cfg.conv(half, 1)
        cfg.route(-2)
        cfg.conv(half, 1)
        for _ in range(repeats):
            cfg.conv(channels // 2, 1)
            cfg.conv(half, 3)
            cfg.add("shortcut", **{"from": -3, "activation": "linear"})
        cfg.conv(half, 1)
        cfg.route(-1, -(3 * repeats + 4))
        taps.append(cfg.conv(channels, 1))
    cfg.activation = "leaky"
    for channels, size_ in ((512, 1), (1024, 3), (512, 1)):
        cfg.conv(channels, size_)
    for number, pool in enumerate((5, 9, 13)):
        cfg.add("maxpool", stride=1, size=pool)
        cfg.route(*((-2 * (number + 1),) if pool < 13 else (-1, -3, -5, -6)))
    for channels, size_ in ((512, 1), (1024, 3), (512, 1)):
        cfg.conv(channels, size_)
    ends = []
    for channels, tap in ((256, taps[3]), (128, taps[2])):
        cfg.conv(channels, 1)
        cfg.add("upsample", stride=2)
        cfg.route(tap)
        cfg.conv(channels, 1)
        cfg.route(-1, -3)
        ends.append(_five(cfg, channels))
    spp = ends[0] - 10  # the last convolution of SPP stands before: 1x1, upsample, route, 1x1, route and five
    for channels, mask, scale in ((128, "0,1,2", 1.2), (256, "3,4,5", 1.1), (512, "6,7,8", 1.05)):
        if channels > 128:
            cfg.route(-4)
            down = cfg.conv(channels, 3, 2)
            other = ends[0] if channels == 256 else spp
            cfg.route(-1, other - down - 1)
            _five(cfg, channels)
        cfg.conv(2 * channels, 3)
        cfg.yolo(
            mask, V4_ANCHORS, num_classes, scale_x_y=scale, iou_thresh=0.213, iou_loss="ciou", nms_kind="greedynms"
        )
    return cfg.text()


def yolov4_tiny(num_classes: int = 80, width: float = 1.0, size: int = 416) -> str:
    """CSPDarknet53-tiny, of the authors' second paper (2011.08036), with the masks that they published."""
    cfg = Cfg(size, width, "leaky")
    cfg.conv(32, 3, 2)
    cfg.conv(64, 3, 2)
    for channels in (64, 128, 256):
        cfg.conv(channels, 3)
        cfg.route(-1, groups=2, group_id=1)
        cfg.conv(channels // 2, 3)
        cfg.conv(channels // 2, 3)
        cfg.route(-1, -2)
        tap = cfg.conv(channels, 1)
        cfg.route(-6, -1)
        cfg.add("maxpool", size=2, stride=2)
    cfg.conv(512, 3)
    cfg.conv(256, 1)
    cfg.conv(512, 3)
    cfg.yolo("3,4,5", TINY_ANCHORS, num_classes, scale_x_y=1.05)
    cfg.route(-4)
    cfg.conv(128, 1)
    cfg.add("upsample", stride=2)
    cfg.route(-1, tap)
    cfg.conv(256, 3)
    cfg.yolo("1,2,3", TINY_ANCHORS, num_classes, scale_x_y=1.05)
    return cfg.text()


def yolov3(num_classes: int = 80, width: float = 1.0, size: int = 416) -> str:
    """Darknet-53 and three levels: 1804.02767 table 1 and §2.3."""
    cfg = Cfg(size, width, "leaky")
    cfg.conv(32, 3)
    taps = []
    for channels, repeats in ((64, 1), (128, 2), (256, 8), (512, 8), (1024, 4)):
        taps.append(cfg.conv(channels, 3, 2))
        for _ in range(repeats):
            cfg.conv(channels // 2, 1)
            cfg.conv(channels, 3)
            taps[-1] = cfg.add("shortcut", **{"from": -3, "activation": "linear"})
    for channels, mask, tap in ((512, "6,7,8", None), (256, "3,4,5", taps[3]), (128, "0,1,2", taps[2])):
        if tap is not None:
            cfg.route(-4)
            cfg.conv(channels, 1)
            cfg.add("upsample", stride=2)
            cfg.route(-1, tap)
        _five(cfg, channels)
        cfg.conv(2 * channels, 3)
        cfg.yolo(mask, V3_ANCHORS, num_classes)
    return cfg.text()


def mobilenet(num_classes: int = 20, width: float = 1.0, size: int = 320, activation: str = "relu6") -> str:
    """MobileNet V2 (1801.04381 table 2) with SE (1709.01507) in its deep stages, and two levels of YOLOv3."""
    cfg = Cfg(size, width, activation)
    cfg.conv(32, 3, 2)
    before, tap = 32, 0
    for t, c, repeats, stride in (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
    ):
        for repeat in range(repeats):
            first = len(cfg.sections) - 2
            inside = cfg.channels(before) * t
            cfg.width, width = 1.0, cfg.width
            if t > 1:
                cfg.conv(inside, 1)
            depthwise = cfg.conv(inside, 3, stride if repeat == 0 else 1, groups=inside)
            if c >= 96:
                cfg.add("avgpool")
                for filters, name in ((inside // 4, "leaky"), (inside, "logistic")):
                    cfg.add("convolutional", filters=filters, size=1, stride=1, pad=1, activation=name)
                cfg.add("scale_channels", **{"from": depthwise - len(cfg.sections) + 1, "activation": "linear"})
            cfg.width = width
            last = cfg.conv(c, 1, activation="linear")
            if repeat:
                last = cfg.add("shortcut", **{"from": first - last - 1, "activation": "linear"})
            before = c
        tap = last if c == 96 else tap
    cfg.add("dropout", probability=0.5)
    cfg.conv(256, 1, activation="swish")
    cfg.yolo("3,4,5", TINY_ANCHORS, num_classes)
    cfg.route(-3)
    cfg.add("upsample", stride=2)
    cfg.route(-1, tap)
    cfg.yolo("0,1,2", TINY_ANCHORS, num_classes)
    return cfg.text()


def _five(cfg: Cfg, channels: int) -> int:
    """1x1 and 3x3 by turns, five of them."""
    for number in range(5):
        last = cfg.conv(channels * (1 + number % 2), 1 + 2 * (number % 2))
    return last
