"""The vision tower: EfficientNet-Lite with its batch norms folded into the convolutions.

Folding (done once, by `fold_batch_norm`, when the student is built) makes the frozen tower faster and leaves it
without running statistics, so that ``model.train()`` cannot move it. The architecture is the published Lite
family: inverted residual blocks, ReLU6, no squeeze-and-excitation, stem and head of fixed width.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# kernel, stride, expansion, channels, repeats: one row per stage, before width and depth scaling.
STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
STEM_WIDTH = 32
HEAD_WIDTH = 1280
FINE_STAGE, MIDDLE_STAGE = 2, 4  # the last stages at strides 8 and 16
BATCH_NORM_EPS = 1e-3


class VisionFeatures(NamedTuple):
    """What the tower sees in a batch of images of side S."""

    fine: Tensor  # (B, C8, S/8, S/8): strokes and letters
    middle: Tensor  # (B, C16, S/16, S/16): parts
    final: Tensor  # (B, 1280, S/32, S/32): objects


def scaled_width(channels: int, width: float) -> int:
    """Channel count after width scaling, rounded to a multiple of 8 without losing more than a tenth.

    >>> [scaled_width(c, 1.1) for c in (16, 24, 40, 80, 112, 192, 320)]
    [16, 24, 48, 88, 120, 208, 352]
    """
    wanted = channels * width
    rounded = max(8, int(wanted + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * wanted else rounded


def stage_widths(width: float) -> list[int]:
    """Output channels of the seven stages."""
    return [scaled_width(row[3], width) for row in STAGES]


class SameConv(nn.Conv2d):
    """Convolution with a bias whose output side is ceil(input side / stride), padding like TensorFlow's SAME."""

    def __init__(self, inp: int, out: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(inp, out, kernel, stride, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        (kernel, _), (stride, _) = self.kernel_size, self.stride
        pads: list[int] = []
        for side in (x.shape[-1], x.shape[-2]):
            total = max((math.ceil(side / stride) - 1) * stride + kernel - side, 0)
            pads += [total // 2, total - total // 2]
        return super().forward(F.pad(x, pads) if any(pads) else x)


class InvertedResidual(nn.Module):
    """Expand, filter depthwise, project; add the input where shapes allow."""

    def __init__(self, inp: int, out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inp * expansion
        self.expand = SameConv(inp, hidden, 1) if expansion != 1 else None
        self.depthwise = SameConv(hidden, hidden, kernel, stride, groups=hidden)
        self.project = SameConv(hidden, out, 1)
        self.residual = stride == 1 and inp == out

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.expand is None else F.relu6(self.expand(x))
        y = self.project(F.relu6(self.depthwise(y)))
        return x + y if self.residual else y


class EfficientNetLite(nn.Module):
    """The tower. `classify` reads the ImageNet head, whose 1000 logits are evidence for the projector."""

    def __init__(self, width: float = 1.1, depth: float = 1.2, classes: int = 1000) -> None:
        super().__init__()
        self.stem = SameConv(3, STEM_WIDTH, 3, 2)
        self.stages = nn.ModuleList()
        inp = STEM_WIDTH
        for index, (kernel, stride, expansion, channels, repeats) in enumerate(STAGES):
            out = scaled_width(channels, width)
            count = repeats if index in (0, len(STAGES) - 1) else math.ceil(repeats * depth)
            blocks = [InvertedResidual(inp, out, kernel, stride, expansion)]
            blocks += [InvertedResidual(out, out, kernel, 1, expansion) for _ in range(count - 1)]
            self.stages.append(nn.Sequential(*blocks))
            inp = out
        self.head = SameConv(inp, HEAD_WIDTH, 1)
        self.classifier = nn.Linear(HEAD_WIDTH, classes)

    def forward(self, pixels: Tensor) -> VisionFeatures:
        """Features of images (B, 3, S, S), normalised as ``(rgb - 127) / 128``."""
        x = F.relu6(self.stem(pixels))
        seen: list[Tensor] = []
        for stage in self.stages:
            x = stage(x)
            seen.append(x)
        return VisionFeatures(seen[FINE_STAGE], seen[MIDDLE_STAGE], F.relu6(self.head(x)))

    def classify(self, final: Tensor) -> Tensor:
        """ImageNet logits (B, classes) from `VisionFeatures.final`."""
        logits: Tensor = self.classifier(final.mean((-2, -1)))
        return logits


def fold_batch_norm(state: Mapping[str, Tensor], depth: float) -> dict[str, Tensor]:
    """The state of `EfficientNetLite` from the state of the published network with batch norms."""

    def folded(conv: str, norm: str) -> tuple[Tensor, Tensor]:
        scale = state[f"{norm}.weight"] / torch.sqrt(state[f"{norm}.running_var"] + BATCH_NORM_EPS)
        weight = state[f"{conv}.weight"] * scale[:, None, None, None]
        return weight, state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale

    pairs = {"stem": ("_conv_stem", "_bn0"), "head": ("_conv_head", "_bn1")}
    block = 0
    for index, (_, _, expansion, _, repeats) in enumerate(STAGES):
        for inner in range(repeats if index in (0, len(STAGES) - 1) else math.ceil(repeats * depth)):
            ours, theirs = f"stages.{index}.{inner}", f"_blocks.{block}"
            if expansion != 1:
                pairs[f"{ours}.expand"] = (f"{theirs}._expand_conv", f"{theirs}._bn0")
            pairs[f"{ours}.depthwise"] = (f"{theirs}._depthwise_conv", f"{theirs}._bn1")
            pairs[f"{ours}.project"] = (f"{theirs}._project_conv", f"{theirs}._bn2")
            block += 1
    result = {"classifier.weight": state["_fc.weight"], "classifier.bias": state["_fc.bias"]}
    for name, (conv, norm) in pairs.items():
        result[f"{name}.weight"], result[f"{name}.bias"] = folded(conv, norm)
    return result
