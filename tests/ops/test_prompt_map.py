from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from scripts.ops.prompt_map import average_slices, prompt_guided_map, upsample


def naive(maps: Tensor, thresholds: Tensor, gate: float, integration: str, allowed: Tensor | None) -> Tensor:
    """The definition, pixel by pixel."""
    batch, classes, height, width = maps.shape
    result = torch.zeros(batch, height, width, dtype=torch.int64)
    for b in range(batch):
        named = [c for c in range(1, classes) if maps[b, c].max() > gate and (allowed is None or allowed[c])]
        for y in range(height):
            for x in range(width):
                value = maps[b, :, y, x]
                on = [c for c in range(classes) if value[c] > thresholds[b, c]]
                if integration == "otsu_per_class":
                    rivals = [c for c in (0, *named) if c in on]
                elif integration == "argmax":
                    rivals = [0, *named]
                else:
                    rivals = [] if 0 in on else named
                result[b, y, x] = max(rivals, key=lambda c: (value[c], -c), default=0)
    return result


def column(*values: list[float]) -> Tensor:
    """One image of one column: one list of values a class."""
    return torch.tensor(values)[None, :, :, None]


class TestUpsample:
    def test_value(self) -> None:
        assert upsample(column([0.0, 1.0]), (4, 1)).flatten().tolist() == [0.0, 0.25, 0.75, 1.0]

    def test_shape(self) -> None:
        assert upsample(torch.rand(2, 3, 4, 5), (16, 10)).shape == (2, 3, 16, 10)

    def test_exception(self) -> None:
        with pytest.raises(ValueError, match=r"maps must be \(B, N, h, w\), got \(4, 5\)"):
            upsample(torch.rand(4, 5), (8, 8))


class TestAverageSlices:
    @pytest.mark.parametrize(
        ("neighbours", "expected"), [(0, [0.0, 3.0, 6.0, 0.0]), (1, [1.0, 3.0, 3.0, 2.0]), (2, [1.8, 1.8, 1.8, 1.8])]
    )
    def test_value(self, neighbours: int, expected: list[float]) -> None:
        """The end slices are repeated: (0 + 0 + 3) / 3 is the first average of three."""
        maps = torch.tensor([0.0, 3.0, 6.0, 0.0])[:, None, None, None].repeat(1, 2, 1, 1)
        averaged = average_slices(maps, neighbours)
        torch.testing.assert_close(averaged, torch.tensor(expected)[:, None, None, None].repeat(1, 2, 1, 1))


class TestPromptGuidedMap:
    @pytest.mark.parametrize("integration", ["otsu_per_class", "foreground_by_background", "argmax"])
    @pytest.mark.parametrize("gate", [0.0, 0.9, 0.97])
    @pytest.mark.parametrize("allowed", [None, torch.tensor([False, True, False, True])])
    def test_twin(self, integration: str, gate: float, allowed: Tensor | None) -> None:
        maps = torch.rand(3, 4, 5, 4)
        thresholds = torch.rand(3, 4)
        result = prompt_guided_map(maps, thresholds, gate=gate, integration=integration, allowed=allowed)
        assert result.dtype == torch.int64
        assert torch.equal(result, naive(maps, thresholds, gate, integration, allowed))

    def test_value_overlap_and_nobody(self) -> None:
        maps = column([0.1, 0.1, 0.1, 0.7], [0.6, 0.9, 0.1, 0.6], [0.8, 0.6, 0.1, 0.2])
        result = prompt_guided_map(maps, torch.full((1, 3), 0.5), gate=0.0)
        assert result.flatten().tolist() == [2, 1, 0, 0]

    def test_value_background_competes_only_where_its_mask_is_on(self) -> None:
        maps = column([0.9, 0.9], [0.7, 0.7])
        assert prompt_guided_map(maps, torch.tensor([[0.95, 0.5]]), gate=0.0).flatten().tolist() == [1, 1]
        assert prompt_guided_map(maps, torch.tensor([[0.85, 0.5]]), gate=0.0).flatten().tolist() == [0, 0]

    def test_value_gate_is_per_image(self) -> None:
        maps = torch.cat((column([0.0, 0.0], [0.4, 0.1]), column([0.0, 0.0], [0.6, 0.1])))
        result = prompt_guided_map(maps, torch.full((2, 2), 0.2), gate=0.5)
        assert result.flatten(1).tolist() == [[0, 0], [1, 0]]

    def test_value_gate_has_to_be_exceeded(self) -> None:
        maps = column([0.0], [0.5])
        values = [prompt_guided_map(maps, torch.zeros(1, 2), gate=gate).item() for gate in (0.499, 0.5, 0.501)]
        assert values == [1, 0, 0]

    def test_value_foreground_by_background_fills_the_foreground(self) -> None:
        maps = column([0.9, 0.1, 0.2], [0.8, 0.05, 0.3], [0.0, 0.01, 0.9])
        result = prompt_guided_map(maps, torch.tensor([[0.5, 9, 9]]), gate=0.0, integration="foreground_by_background")
        assert result.flatten().tolist() == [0, 1, 2]

    def test_value_constant_maps_have_an_empty_mask(self) -> None:
        """OTSU's threshold of a constant map is its value, which no pixel exceeds."""
        background, foreground = [0.5, 0.5, 0.5], [0.8, 0.2, 0.9]
        result = [
            prompt_guided_map(column(*maps), torch.tensor([[0.5, 0.5]]), gate=0.0, integration=name).flatten().tolist()
            for maps, name in (
                ((background, foreground), "foreground_by_background"),
                ((background, foreground), "otsu_per_class"),
                (([0.1, 0.1, 0.1], background), "otsu_per_class"),
            )
        ]
        assert result == [[1, 1, 1], [1, 0, 1], [0, 0, 0]]

    @pytest.mark.parametrize("integration", ["otsu_per_class", "foreground_by_background", "argmax"])
    def test_value_is_background_if_no_class_is_allowed(self, integration: str) -> None:
        result = prompt_guided_map(
            torch.rand(2, 3, 4, 4), torch.zeros(2, 3), gate=0.0, integration=integration, allowed=torch.zeros(3).bool()
        )
        assert not result.any()

    def test_value_argmax_needs_no_thresholds(self) -> None:
        maps = torch.rand(2, 3, 4, 4)
        assert torch.equal(prompt_guided_map(maps, None, gate=0.0, integration="argmax"), maps.argmax(dim=1))

    def test_value_leaves_its_arguments_alone(self) -> None:
        arguments = torch.rand(2, 3, 4, 4), torch.rand(2, 3), torch.zeros(3, dtype=torch.bool)
        copies = [a.clone() for a in arguments]
        prompt_guided_map(arguments[0], arguments[1], gate=0.2, allowed=arguments[2])
        assert all(torch.equal(a, b) for a, b in zip(arguments, copies, strict=True))

    def test_exception(self) -> None:
        maps, thresholds = torch.rand(2, 3, 4, 4), torch.rand(2, 3)
        with pytest.raises(ValueError, match="one of otsu_per_class, foreground_by_background, argmax, got 'otsu'"):
            prompt_guided_map(maps, thresholds, gate=0.0, integration="otsu")
        with pytest.raises(ValueError, match=r"thresholds must be \(B, N\) with B=2, N=3, got \(2, 4\)"):
            prompt_guided_map(maps, torch.rand(2, 4), gate=0.0)
        with pytest.raises(ValueError, match=r"allowed must be \(N\) with N=3, got \(4,\)"):
            prompt_guided_map(maps, thresholds, gate=0.0, allowed=torch.ones(4, dtype=torch.bool))
        with pytest.raises(ValueError, match="thresholds must be given for the integration 'otsu_per_class', got None"):
            prompt_guided_map(maps, None, gate=0.0)

    @given(st.integers(0, 10_000), st.floats(0, 1), st.sampled_from(["otsu_per_class", "foreground_by_background"]))
    @settings(max_examples=20)
    def test_property_a_higher_gate_names_no_more_classes(self, seed: int, gate: float, integration: str) -> None:
        generator = torch.Generator().manual_seed(seed)
        maps, thresholds = torch.rand(1, 5, 3, 3, generator=generator), torch.rand(1, 5, generator=generator)
        free, gated = (
            set(prompt_guided_map(maps, thresholds, gate=g, integration=integration).flatten().tolist())
            for g in (0.0, gate)
        )
        silent = {c for c in range(1, 5) if maps[0, c].max() <= gate}
        assert not gated & silent
        assert free - silent - {0} <= gated
