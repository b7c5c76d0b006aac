"""Mixed precision: which half precision a device computes in, for training, validation, pseudo-labels, prompt maps."""

from __future__ import annotations

from typing import Any

import torch

NATIVE_BF16 = 8
"""Compute capability from which a GPU has bfloat16. Older ones (V100, T4) emulate it, slower than float32."""


def half_precision(device: torch.device | str) -> torch.dtype:
    """bfloat16 where the device has it, else float16, which needs gradients that are scaled (`GradScaler`)."""
    device = torch.device(device)
    if device.type == "cuda" and torch.cuda.get_device_capability(device)[0] < NATIVE_BF16:
        return torch.float16
    return torch.bfloat16


def autocast(device: torch.device | str, enabled: bool) -> torch.autocast:
    """Context of mixed precision in the device's half precision; float32 if not enabled."""
    return torch.autocast(torch.device(device).type, half_precision(device), enabled=enabled)


def amp_kwargs(device: torch.device | str) -> dict[str, Any]:
    """The same for the engines of MONAI, which know mixed precision on GPUs alone and take float16 by themselves."""
    return {"dtype": half_precision(device)}
