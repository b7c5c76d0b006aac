"""Label maps of drawn patients, and what a network that knows the tissue, but hardly the levels, says of them."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from scripts.labels import IGNORE, ClassTable
from scripts.ops.levels.ordering import chain_index
from scripts.ops.levels.tissue import group_index
from scripts.phantom.volume import make_phantom

TABLE = ClassTable.load()
GROUPS, CHAIN = group_index(TABLE), chain_index(TABLE)
PIXEL_MM = 1.6


def volume(index: int, slices: int = 3, anomaly: str | None = None) -> Tensor:
    """Label map (S, 176, 96) of a drawn patient's middle slices, without ignored pixels."""
    _, label, _ = make_phantom(3, index, shape_hw=(176, 96), pixel_mm=PIXEL_MM, anomaly=anomaly)
    first = label.shape[2] // 2 - slices // 2
    found = torch.from_numpy(label[..., first : first + slices].astype(np.int64)).permute(2, 1, 0)
    return found.masked_fill(found == IGNORE, 0)


def unsure(label: Tensor) -> Tensor:
    """Probabilities of a network that is certain of the tissue, and holds a level for 4.5 times as likely as others."""
    tissue = (GROUPS[:, None, None] == GROUPS[label][:, None]).float()  # (S, N, H, W)
    return (6 * tissue + 1.5 * F.one_hot(label, TABLE.num_classes).movedim(-1, 1)).softmax(1)


def one_level_up(label: Tensor) -> Tensor:
    """Every structure under the name of the next of its type, upwards; the sacrum stays."""
    up = torch.arange(256)
    for kind in (2, 3):
        ids = [int(c) for c in CHAIN if GROUPS[c] == kind]
        up[ids[:-1]] = torch.tensor(ids[1:])
    return up[label]
