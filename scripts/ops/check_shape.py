"""Shape checks whose errors say what was expected and what came."""

from __future__ import annotations

from torch import Tensor


def check_shape(name: str, tensor: Tensor, shape: str, sizes: dict[str, int] | None = None) -> dict[str, int]:
    """Check every axis of a tensor against letters and numbers, and learn the sizes behind new letters.

    Args:
        name: how the error calls the tensor.
        tensor: the tensor; only its shape is read, so a tensor on a GPU is not waited for.
        shape: one word an axis, as in "B N H W" or "B 1 h w"; a number stands for itself, a letter for one size.
        sizes: sizes of letters that earlier checks learned; None knows none.

    Returns:
        `sizes` with the letters of this shape added; the argument is left as it was.

    Raises:
        ValueError: another number of axes, or an axis of another size.

    Example:
        >>> import torch
        >>> sizes = check_shape("logits", torch.zeros(2, 20, 64, 32), "B N H W")
        >>> check_shape("label", torch.zeros(2, 1, 64, 32), "B H W", sizes)
        Traceback (most recent call last):
        ValueError: label must be (B, H, W) with B=2, H=64, W=32, got (2, 1, 64, 32)
    """
    axes = shape.split()
    known = dict(sizes or {})
    fits = tensor.dim() == len(axes)
    if fits:
        for axis, size in zip(axes, tensor.shape, strict=True):
            fits = fits and size == (int(axis) if axis.isdigit() else known.setdefault(axis, size))
    if not fits:
        given = [f"{axis}={sizes[axis]}" for axis in axes if sizes and axis in sizes]
        where = f" with {', '.join(given)}" if given else ""
        raise ValueError(f"{name} must be ({', '.join(axes)}){where}, got {tuple(tensor.shape)}")
    return known
