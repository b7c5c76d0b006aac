"""What all tests share: one thread, no network, fixed seeds, a deterministic hypothesis, GPU tests that skip."""

from __future__ import annotations

import os

# before torch, transformers and matplotlib are imported by anything
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["MONAI_FAIL_ON_DUPLICATE_CONFIG"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MPLBACKEND"] = "Agg"

import locale
import random
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch

torch.set_num_threads(1)
hypothesis.settings.register_profile("tests", derandomize=True, max_examples=50, deadline=None, database=None)
hypothesis.settings.load_profile("tests")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(autouse=True)
def own_locale() -> Iterator[None]:
    """ITK's DICOM writer leaves the process in the C locale, in which the output of other programs counts as ASCII."""
    before = locale.setlocale(locale.LC_ALL)
    yield
    locale.setlocale(locale.LC_ALL, before)


@pytest.fixture(autouse=True)
def fixed_seeds() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def bundle_root() -> Path:
    return Path(__file__).resolve().parent.parent
