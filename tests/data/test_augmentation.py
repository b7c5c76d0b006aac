from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from scripts.data.augmentation import BatchAugmentation, warp, warp_label
from scripts.labels import IGNORE
from scripts.ops.attention import region_targets
from scripts.ops.prompt_map import upsample

NOTHING = {
    **dict.fromkeys(("rotate_degrees", "scale", "shift", "elastic_px"), 0.0),
    **dict.fromkeys(("contrast", "brightness", "gamma", "noise"), 0.0),
}
SHAPE_ONLY = dict.fromkeys(("contrast", "brightness", "gamma", "noise"), 0.0)


def drawn(batch: int = 4, height: int = 64, width: int = 32) -> dict[str, Tensor]:
    """A disc of class 1 in the upper half of a slice; image, label and coarse attention maps show the same disc."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    disc = ((rows - height * 0.4) ** 2 + (columns - width * 0.5) ** 2 < (width / 6) ** 2).long()
    label = disc.expand(batch, 1, height, width)
    maps = region_targets(label[:, 0], 2, (height // 4, width // 4))
    return {"image": label.float(), "label": label.to(torch.uint8), "attention_maps": maps}


def centroid(weights: Tensor) -> Tensor:
    """Centre of mass (B, 2), row and column, of weights (B, H, W)."""
    weights = weights.double()
    axes = [torch.arange(n, dtype=torch.float64) for n in weights.shape[1:]]
    total = weights.sum((1, 2))
    return torch.stack([(weights.sum(2) * axes[0]).sum(1) / total, (weights.sum(1) * axes[1]).sum(1) / total], 1)


def pixels(grid: Tensor) -> Tensor:
    """Sampling grid (B, H, W, 2) as columns and rows in pixels."""
    size = torch.tensor([grid.shape[2], grid.shape[1]])
    return ((grid + 1) * size - 1) / 2


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


class TestBatchAugmentation:
    def test_noise_is_drawn_where_the_batch_is(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """On a GPU, which here is a CPU by another name: by seed and step, and shared by the processes as elsewhere."""
        gpu, draw, make, asked = SimpleNamespace(type="cuda"), torch.randn, torch.Generator, []
        monkeypatch.setattr(torch, "Generator", lambda device=None: asked.append(device) or make())
        monkeypatch.setattr(torch, "randn", lambda *size, generator, device: draw(*size, generator=generator))

        def noise(size: int, seed: int = 0, **share: int) -> Tensor:
            image: Any = SimpleNamespace(device=gpu, shape=(size, 1, 3, 2))
            return BatchAugmentation(**share)._normal(image, make().manual_seed(seed))

        assert torch.equal(noise(4), torch.cat([noise(2, rank=rank, ranks=2) for rank in range(2)]))
        assert asked == [gpu] * 3
        assert not torch.equal(noise(4), noise(4, seed=1))

    def test_processes_draw_their_part_of_the_whole_batch(self) -> None:
        whole = drawn(6)
        whole["image"] = torch.randn(6, 1, 64, 32)
        expected = BatchAugmentation(seed=3)({"labelled": whole, "unlabelled": whole}, 7)
        parts = []
        for rank in range(3):
            own = {name: tensor[2 * rank : 2 * rank + 2] for name, tensor in whole.items()}
            parts.append(BatchAugmentation(seed=3, rank=rank, ranks=3)({"labelled": own, "unlabelled": own}, 7))
        for stream in ("labelled", "unlabelled"):
            for name, tensor in expected[stream].items():
                assert torch.equal(torch.cat([part[stream][name] for part in parts]), tensor), name

    def test_identity(self) -> None:
        made = drawn()
        made["image"] = torch.randn(4, 1, 64, 32)
        same = BatchAugmentation(**NOTHING)({"labelled": made, "unlabelled": None}, 3)
        assert same["unlabelled"] is None
        torch.testing.assert_close(same["labelled"]["image"], made["image"], atol=1e-4, rtol=0)
        assert torch.equal(same["labelled"]["label"], made["label"])
        torch.testing.assert_close(
            same["labelled"]["attention_maps"], upsample(made["attention_maps"], (64, 32)), atol=1e-5, rtol=0
        )

    def test_depends_on_seed_and_step_only(self) -> None:
        batch = {"labelled": drawn(2), "unlabelled": drawn(2)}
        augment = BatchAugmentation(seed=3)
        first = augment(batch, 7)
        torch.rand(5)
        augment(batch, 8)
        again = BatchAugmentation(seed=3)(batch, 7)
        for stream in batch:
            for name in ("image", "label", "attention_maps"):
                assert torch.equal(first[stream][name], again[stream][name])
        others = [BatchAugmentation(seed=4)(batch, 7), augment(batch, 8)]
        assert all(not torch.equal(first["labelled"]["image"], other["labelled"]["image"]) for other in others)

    def test_samples_and_streams_draw_their_own(self) -> None:
        made = BatchAugmentation(**SHAPE_ONLY)({"labelled": drawn(2), "unlabelled": drawn(2)}, 0)
        images = torch.cat([made["labelled"]["image"], made["unlabelled"]["image"]]).flatten(1)
        assert len(torch.unique(images, dim=0)) == 4

    def test_labelled_stream_does_not_know_of_the_other(self) -> None:
        augment = BatchAugmentation()
        alone = augment({"labelled": drawn(2), "unlabelled": None}, 5)["labelled"]
        both = augment({"labelled": drawn(2), "unlabelled": drawn(3)}, 5)["labelled"]
        assert torch.equal(alone["image"], both["image"])

    def test_input_is_left_alone(self) -> None:
        made = drawn()
        before = {name: tensor.clone() for name, tensor in made.items()}
        BatchAugmentation()({"labelled": made}, 0)
        assert all(torch.equal(made[name], before[name]) for name in before)

    def test_bias_is_a_smooth_factor_of_the_scaled_grey_values(self) -> None:
        image = torch.rand(3, 1, 64, 32) + 0.5
        augment = BatchAugmentation(**NOTHING, bias=0.3)
        made = augment.grey_values(image, torch.Generator().manual_seed(1))
        low, high = (f(image, (1, 2, 3), keepdim=True) for f in (torch.amin, torch.amax))
        field = ((made - low) / (image - low).clamp_min(1e-6)).log()[(image - low > 0.05 * (high - low))]
        assert 0.1 < field.std() < 0.5
        steps = (made - low).clamp_min(1e-6).log().diff(dim=2) - (image - low).clamp_min(1e-6).log().diff(dim=2)
        assert steps[image[:, :, 1:] - low > 0.2].abs().median() < 0.1

    def test_blur_is_a_mean_of_neighbours(self) -> None:
        """A single bright pixel keeps 1 - 8 w / 9 of its height above the others, w < the largest weight."""
        image = torch.zeros(50, 1, 9, 9)
        image[:, :, 4, 4] = 9.0
        made = BatchAugmentation(**NOTHING, blur=0.6).grey_values(image, torch.Generator().manual_seed(0))
        weight = made[:, 0, 4, 3]
        torch.testing.assert_close(made[:, 0, 4, 4], 9 - 8 * weight)
        torch.testing.assert_close(made.sum((1, 2, 3)), torch.full((50,), 9.0))
        assert 0 <= weight.min() < 0.05
        assert 0.5 < weight.max() <= 0.6

    def test_gamma_counts_from_black_or_from_white(self) -> None:
        """The value at half the range moves up as often by the one as down by the other."""
        image = torch.tensor([0.0, 0.5, 1.0]).repeat(400, 1, 1, 1)
        made = BatchAugmentation(**{**NOTHING, "gamma": 0.7}).grey_values(image, torch.Generator().manual_seed(0))
        assert torch.equal(made[..., [0, 2]], image[..., [0, 2]])
        moved = made[:, 0, 0, 1]
        assert moved.median() == pytest.approx(0.5, abs=0.03)
        least = 0.5 ** torch.tensor(0.7).exp()
        assert least - 1e-4 <= min(moved.min(), 1 - moved.max())
        assert 1 - moved.min() > 0.7
        assert moved.max() > 0.7

    def test_image_label_and_maps_stay_aligned(self) -> None:
        moved = []
        for step in range(10):
            batch = drawn()
            made = BatchAugmentation(scale=0.2, shift=0.1, **SHAPE_ONLY)({"labelled": batch}, step)["labelled"]
            label = centroid(made["label"][:, 0] == 1)
            torch.testing.assert_close(centroid(made["image"][:, 0]), label, atol=0.3, rtol=0)
            torch.testing.assert_close(centroid(made["attention_maps"][:, 1]), label, atol=1.0, rtol=0)  # patch: 4
            moved.append((label - centroid(batch["label"][:, 0])).norm(dim=1))
        assert torch.cat(moved).max() > 3  # there was something to stay aligned under

    def test_label_stays_a_label(self) -> None:
        made = drawn()
        made["label"] = made["label"] * 7 + 3  # classes 3 and 10; nothing may come up between them
        out = BatchAugmentation(shift=0.4)({"labelled": made}, 1)["labelled"]["label"]
        assert out.dtype == torch.uint8
        assert out.unique().tolist() == [3, 10, IGNORE]

    def test_only_what_is_there(self) -> None:
        stream: dict[str, Any] = {"image": torch.randn(2, 1, 8, 8), "is_unlabelled": torch.zeros(2, 3).bool()}
        made = BatchAugmentation()({"unlabelled": stream}, 0)["unlabelled"]
        assert list(made) == ["image", "is_unlabelled"]
        assert made["is_unlabelled"] is stream["is_unlabelled"]


class TestGrid:
    def test_never_flips_head_and_foot(self, generator: torch.Generator) -> None:
        augment = BatchAugmentation()
        for _ in range(30):
            grid = augment.grid(8, (128, 64), generator)
            assert (grid[:, 1:, :, 1] > grid[:, :-1, :, 1]).all()  # further down is further down
            assert (grid[:, :, 1:, 0] > grid[:, :, :-1, 0]).all()  # nor front and back

    def test_shift_along_head_foot_is_bounded(self, generator: torch.Generator) -> None:
        augment = BatchAugmentation(rotate_degrees=0, scale=0, shift=0.03, elastic_px=0)
        rows = pixels(augment.grid(200, (128, 64), generator))[..., 1] - torch.arange(128.0)[:, None]
        assert 0.02 * 128 < rows.abs().max() <= 0.03 * 128 + 1e-3

    @pytest.mark.parametrize("size", [(64, 32), (16, 48)])
    def test_rotation_keeps_distances_in_pixels(self, generator: torch.Generator, size: tuple[int, int]) -> None:
        augment = BatchAugmentation(rotate_degrees=30, scale=0, shift=0, elastic_px=0)
        grid = pixels(augment.grid(50, size, generator))
        along_row, along_column = grid[:, 0, 1] - grid[:, 0, 0], grid[:, 1, 0] - grid[:, 0, 0]
        torch.testing.assert_close(along_row.norm(dim=1), torch.ones(50), atol=1e-4, rtol=0)
        torch.testing.assert_close(along_column.norm(dim=1), torch.ones(50), atol=1e-4, rtol=0)
        torch.testing.assert_close((along_row * along_column).sum(1), torch.zeros(50), atol=1e-4, rtol=0)
        angle = torch.atan2(along_row[:, 1], along_row[:, 0]).rad2deg().abs().max()
        assert 25 < angle <= 30 + 1e-3

    def test_scale(self, generator: torch.Generator) -> None:
        augment = BatchAugmentation(rotate_degrees=0, scale=0.2, shift=0, elastic_px=0)
        grid = pixels(augment.grid(200, (16, 8), generator))
        zoom = 1 / (grid[:, 0, 1, 0] - grid[:, 0, 0, 0])  # how many pixels one pixel becomes
        assert 0.8 - 1e-4 <= zoom.min() < 0.82
        assert 1.18 < zoom.max() <= 1.2 + 1e-4

    def test_bend_in_pixels(self, generator: torch.Generator) -> None:
        augment = BatchAugmentation(rotate_degrees=0, scale=0, shift=0, elastic_px=2.0)
        rest = pixels(BatchAugmentation(**NOTHING).grid(1, (96, 48), generator))
        away = pixels(augment.grid(100, (96, 48), generator)) - rest
        assert away[:, 0, 0].std(0) == pytest.approx([2.0, 2.0], rel=0.25)  # a corner is a node

    def test_twin(self, generator: torch.Generator) -> None:
        """The look-up of every pixel written out: rotate and zoom about the centre, in pixels."""
        height, width = 6, 10
        augment = BatchAugmentation(rotate_degrees=20, scale=0.1, shift=0.05, elastic_px=0)
        grid = pixels(augment.grid(1, (height, width), torch.Generator().manual_seed(5)))[0]
        draws = torch.Generator().manual_seed(5)
        angle, zoom, right, down = (2 * float(torch.rand(1, generator=draws)) - 1 for _ in range(4))
        turn, zoom = torch.deg2rad(torch.tensor(20 * angle)), 1 + 0.1 * zoom
        for row in range(height):
            for column in range(width):
                x, y = column - (width - 1) / 2, row - (height - 1) / 2
                at_x = (turn.cos() * x - turn.sin() * y) / zoom + (width - 1) / 2 + 0.05 * right * width
                at_y = (turn.sin() * x + turn.cos() * y) / zoom + (height - 1) / 2 + 0.05 * down * height
                torch.testing.assert_close(grid[row, column], torch.stack([at_x, at_y]), atol=1e-4, rtol=0)


class TestGreyValues:
    def test_contrast_and_brightness_are_affine(self, generator: torch.Generator) -> None:
        image = torch.randn(20, 1, 6, 6)
        augment = BatchAugmentation(**{**NOTHING, "contrast": 0.25, "brightness": 0.5})
        out = augment.grey_values(image, generator)
        for before, after in zip(image.flatten(1), out.flatten(1), strict=True):
            design = torch.stack([before, torch.ones_like(before)], 1)
            factor, shift = torch.linalg.lstsq(design, after[:, None]).solution.flatten().tolist()
            torch.testing.assert_close(factor * before + shift, after, atol=1e-4, rtol=0)
            assert abs(factor - 1) <= 0.25 + 1e-4
            assert abs(shift) <= 0.5 + 1e-4

    def test_gamma_keeps_range_and_order(self, generator: torch.Generator) -> None:
        image = torch.randn(8, 1, 6, 6)
        out = BatchAugmentation(**{**NOTHING, "gamma": 0.7}).grey_values(image, generator)
        torch.testing.assert_close(out.amax((1, 2, 3)), image.amax((1, 2, 3)))
        torch.testing.assert_close(out.amin((1, 2, 3)), image.amin((1, 2, 3)))
        assert torch.equal(out.flatten(1).argsort(1), image.flatten(1).argsort(1))
        assert not torch.allclose(out, image, atol=0.05)

    def test_noise_is_no_larger_than_asked(self, generator: torch.Generator) -> None:
        image = torch.zeros(40, 1, 16, 16)
        spread = BatchAugmentation(**{**NOTHING, "noise": 0.2}).grey_values(image, generator).flatten(1).std(1)
        assert spread.max() < 0.2 * 1.15
        assert spread.max() > 0.15
        assert spread.min() < 0.05

    def test_constant_image(self, generator: torch.Generator) -> None:
        assert BatchAugmentation().grey_values(torch.full((2, 1, 4, 4), 3.0), generator).isfinite().all()


class TestWarp:
    @pytest.mark.parametrize("look_up", [warp, warp_label])
    def test_outside(self, look_up: Callable[[Tensor, Tensor], Tensor]) -> None:
        grid = BatchAugmentation(**NOTHING).grid(1, (4, 4), torch.Generator())
        grid[..., 1] += 1.0  # two rows further down
        source = torch.arange(16.0 if look_up is warp else 16).view(1, 1, 4, 4)
        out = look_up(source, grid)[0, 0]
        assert torch.equal(out[:2], source[0, 0, 2:])
        border = source[0, 0, 3:].expand(2, 4) if look_up is warp else torch.full((2, 4), IGNORE)
        assert torch.equal(out[2:], border)

    def test_shape(self) -> None:
        grid = BatchAugmentation().grid(2, (12, 8), torch.Generator())
        assert warp(torch.randn(2, 5, 3, 2), grid).shape == (2, 5, 12, 8)
        assert warp(torch.randn(2, 5, 3, 2, dtype=torch.float64), grid).dtype == torch.float64
