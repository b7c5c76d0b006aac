"""Shape checks with errors that name the expected and the given shape."""

from __future__ import annotations

from torch import Tensor


def check_shape(name: str, tensor: Tensor, shape: str, sizes: dict[str, int] | None = None) -> dict[str, int]:
    """Check the shape of a tensor against a pattern of named axes.

    Args:
        name: name of the tensor in the error.
        tensor: only its shape is read, so this does not synchronise with a GPU.
        shape: names or sizes of the axes, as in "B N H W" or "B 1 h w".
        sizes: axis name -> size from earlier checks; None for none.

    Returns:
        `sizes` with the new axes added; the argument is not changed.

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
