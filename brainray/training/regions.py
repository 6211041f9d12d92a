"""Learns where the finding is: the map of an image's class must lie in the box drawn around the finding.

A network that ends in an average over its grid and a linear layer has an exact map for each class: the linear layer
applied in each cell, whose mean is the logit. Training it to lie in the box tells a network what decides, where classes
differ by place as much as by texture. Axes: N images, K classes, H height, W width of images; h, w of the grid.
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

Boxes = npt.NDArray[np.float32]  # [N, 4] left, top, right, bottom as shares of a side; NaN for none
_LEAST_LEFT = 0.4  # share of a box's area that must be in the image; augmentation alone may shrink it to 0.67
_LEAST = 1e-4  # weight of a cell outside the box, so that the logarithm is finite


def region_masks(boxes_N4: Boxes, px: int) -> Tensor:
    """[N, 1, px, px] 1 inside the box of an image, 0 outside; all 0 without a box, and where most of it was cut off."""
    masks = torch.zeros(len(boxes_N4), 1, px, px)
    for mask, box in zip(masks, boxes_N4, strict=True):
        inside = np.clip(box, 0, 1)
        if np.isfinite(box).all() and _area(inside) >= _LEAST_LEFT * _area(box):
            left, top, right, bottom = (inside * px).round().astype(int).tolist()
            mask[:, top : max(bottom, top + 1), left : max(right, left + 1)] = 1
    return masks


def without_slivers(moved_N1HW: Tensor, before_N1HW: Tensor) -> Tensor:
    """The regions after augmentation; all 0 where most of one was moved out of the image."""
    left_N = moved_N1HW.flatten(1).sum(1) >= _LEAST_LEFT * before_N1HW.flatten(1).sum(1)
    return moved_N1HW * left_N[:, None, None, None]


def _area(box: npt.NDArray[np.float32]) -> float:
    return float((box[2] - box[0]) * (box[3] - box[1]))


def region_loss(maps_NKhw: Tensor, labels_N: Tensor, regions_N1HW: Tensor) -> Tensor:
    """Mean over images with a region of -log(share of the map in the region); 0 where no image has one.

    The share is that of the softmax over the cells of the map of the image's class. A cell at the edge of the region
    counts by how much of it lies inside, beside the cell that lies inside most.
    """
    known = regions_N1HW.flatten(1).amax(1) > 0
    if not known.any():
        return maps_NKhw.new_zeros(())
    of_class_Nhw = maps_NKhw[known, labels_N[known]].float()
    height, width = of_class_Nhw.shape[-2:]
    inside_Nhw = functional.adaptive_avg_pool2d(regions_N1HW[known], (height, width))[:, 0]
    weight = (inside_Nhw / inside_Nhw.amax((1, 2), keepdim=True)).clamp_min(_LEAST).log()
    shares = functional.log_softmax(of_class_Nhw.flatten(1), dim=1) + weight.flatten(1)
    return -torch.logsumexp(shares, dim=1).mean()


class WithMaps(nn.Module):
    """A network in training that gives its class maps [N, K, h, w] beside its logits [N, K]."""

    def __init__(self, network: nn.Module) -> None:
        """Wrap a network whose `features` are averaged over the grid before its last, linear layer."""
        super().__init__()
        self.module = network

    def forward(self, images_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        features = self.module.get_submodule("features")(images_NCHW)
        head = self.module.get_submodule("head")
        linear = list(head.children())[-1]
        weight, bias = linear.get_parameter("weight"), linear.get_parameter("bias")
        return head(features), functional.conv2d(features, weight[:, :, None, None].to(features.dtype), bias)
