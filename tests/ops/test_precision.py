from __future__ import annotations

import pytest
import torch

from scripts.ops.precision import amp_kwargs, autocast, half_precision


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Every GPU is of the capability that a test sets."""

    def capability(major: int, minor: int) -> None:
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (major, minor))
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *args, **options: True)  # emulation counts there

    return capability  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("name", "capability", "expected"),
    [
        ("V100", (7, 0), torch.float16),
        ("T4", (7, 5), torch.float16),
        ("A100", (8, 0), torch.bfloat16),
        ("RTX 3090", (8, 6), torch.bfloat16),
        ("H100", (9, 0), torch.bfloat16),
    ],
)
def test_bfloat16_only_where_a_gpu_has_it(gpu, name: str, capability: tuple[int, int], expected: torch.dtype) -> None:
    gpu(*capability)
    assert half_precision("cuda:0") == half_precision(torch.device("cuda")) == expected
    assert amp_kwargs("cuda:0") == {"dtype": expected}


def test_cpu() -> None:
    assert half_precision("cpu") == torch.bfloat16


@pytest.mark.parametrize(("enabled", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
def test_autocast(enabled: bool, expected: torch.dtype) -> None:
    with autocast("cpu", enabled):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == expected
