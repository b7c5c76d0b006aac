from __future__ import annotations

import copy
import math
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from monai.engines import SupervisedTrainer
from monai.inferers import SliceInferer
from torch import Tensor, nn

from scripts.inference.inferers import (
    PromptMapInferer,
    ShiftTTAInferer,
    SlicewiseInferer,
    VolumeInferer,
    append_decoded,
)
from scripts.ops.batch_norm import batch_norm_statistics
from scripts.ops.otsu import otsu_thresholds
from scripts.ops.prompt_map import prompt_guided_map, upsample
from scripts.training.step import OptimizationStep, to_device


def engine(network: nn.Module, iteration: int = 1, amp: bool = False, device: str = "cpu") -> Any:
    """What a step reads of a trainer."""
    state = SimpleNamespace(iteration=iteration, max_epochs=2, epoch_length=5, device=torch.device(device))
    return SimpleNamespace(state=state, network=network, non_blocking=False, amp=amp, scaler=None)


class Quadratic:
    """Mean square of a linear layer's output; remembers what it was called with."""

    def __init__(self, network: nn.Module) -> None:
        self.network, self.seen = network, []

    def __call__(self, batch: dict[str, Any], progress: float) -> dict[str, Tensor]:
        out = self.network(batch["image"])
        self.seen.append((progress, out.dtype, self.network.training))
        return {"loss": out.square().mean(), "part": out.mean()}


@pytest.fixture
def network() -> nn.Module:
    return nn.Linear(3, 2).eval()


class TestOptimizationStep:
    def test_twin(self, network: nn.Module) -> None:
        twin, image = copy.deepcopy(network), torch.randn(4, 3)
        optimizer = torch.optim.SGD(network.parameters(), 0.1)
        step = OptimizationStep(Quadratic(network), optimizer)
        for iteration in (1, 2):
            losses = step(engine(network, iteration), {"image": image})
            loss = twin(image).square().mean()
            gradients = torch.autograd.grad(loss, list(twin.parameters()))
            with torch.no_grad():
                for parameter, gradient in zip(twin.parameters(), gradients, strict=True):
                    parameter -= 0.1 * gradient
            torch.testing.assert_close(losses["loss"], loss.detach())
            torch.testing.assert_close(list(network.parameters()), list(twin.parameters()))
        assert set(losses) == {"loss", "part"}
        assert not any(value.requires_grad for value in losses.values())

    def test_gradient_clipping(self, network: nn.Module) -> None:
        before = copy.deepcopy(network)
        optimizer = torch.optim.SGD(network.parameters(), 1.0)
        OptimizationStep(Quadratic(network), optimizer, max_grad_norm=0.01)(
            engine(network), {"image": 100 * torch.randn(4, 3)}
        )
        moved = torch.cat([(a - b).flatten() for a, b in zip(network.parameters(), before.parameters(), strict=True)])
        assert float(moved.detach().norm()) == pytest.approx(0.01, rel=1e-3)

    def test_step_and_progress_in_a_trainer(self, network: nn.Module) -> None:
        objective, steps = Quadratic(network), []

        def augment(batch: dict[str, Any], step: int) -> dict[str, Any]:
            steps.append(step)
            return {"image": batch["image"] + 1}

        optimizer = torch.optim.SGD(network.parameters(), 0.0)
        trainer = SupervisedTrainer(
            device=torch.device("cpu"),
            max_epochs=2,
            epoch_length=3,
            train_data_loader=[{"image": torch.ones(1, 3)}] * 3,
            network=network,
            optimizer=optimizer,
            loss_function=objective,
            iteration_update=OptimizationStep(objective, optimizer, augment),
            decollate=False,
        )
        trainer.run()
        assert steps == [1, 2, 3, 4, 5, 6]
        assert [progress for progress, _, _ in objective.seen] == pytest.approx([i / 6 for i in range(6)])
        assert all(training for _, _, training in objective.seen)
        torch.testing.assert_close(trainer.state.output["part"], network(torch.full((1, 3), 2.0)).mean().detach())

    @pytest.mark.parametrize(("amp", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
    def test_mixed_precision(self, network: nn.Module, amp: bool, dtype: torch.dtype) -> None:
        objective = Quadratic(network)
        optimizer = torch.optim.SGD(network.parameters(), 0.1)
        OptimizationStep(objective, optimizer)(engine(network, amp=amp), {"image": torch.randn(4, 3)})
        assert objective.seen[0][1] == dtype
        assert all(p.dtype == p.grad.dtype == torch.float32 for p in network.parameters())

    @pytest.mark.parametrize("max_grad_norm", [None, 0.1])
    def test_scaler_changes_nothing_but_the_scale(self, network: nn.Module, max_grad_norm: float | None) -> None:
        image, twin = torch.randn(4, 3), copy.deepcopy(network)
        for model, scaler in ((network, None), (twin, torch.amp.GradScaler("cpu", init_scale=1024.0))):
            step = OptimizationStep(Quadratic(model), torch.optim.SGD(model.parameters(), 0.1), None, max_grad_norm)
            step._backward(step.objective({"image": image}, 0.0)["loss"], scaler)
        torch.testing.assert_close(list(network.parameters()), list(twin.parameters()))

    @pytest.mark.gpu
    def test_gpu(self) -> None:
        network = nn.Linear(3, 2).cuda()
        step = OptimizationStep(Quadratic(network), torch.optim.SGD(network.parameters(), 0.1))
        losses = step(engine(network, amp=True, device="cuda"), {"image": torch.randn(4, 3), "none": None})
        assert losses["loss"].device.type == "cuda"
        assert losses["loss"].isfinite()


class TestVolumeInferer:
    @pytest.mark.parametrize("chunk", [1, 3, 16])
    def test_value(self, chunk: int) -> None:
        convolution, sizes = nn.Conv2d(1, 2, 3).requires_grad_(False), []
        volume = torch.randn(7, 1, 6, 5)
        expected = convolution(volume)
        convolution.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
        torch.testing.assert_close(VolumeInferer(chunk)(volume, convolution), expected)
        assert max(sizes) <= chunk
        assert sum(sizes) == 7

    @pytest.mark.parametrize("inferer", ["volume", "slicewise"])
    def test_statistics(self, inferer: str) -> None:
        """With its own statistics a volume of other contrast gives the same; the running averages stay."""
        layer = nn.BatchNorm2d(1).eval()
        volume, before = torch.randn(6, 1, 8, 8), copy.deepcopy(layer.state_dict())
        found = {}
        for statistics in ("running", "volume"):
            infer: Any = VolumeInferer(statistics=statistics)
            if inferer == "slicewise":
                slices = SlicewiseInferer(roi_size=(8, 8), spatial_dim=2, sw_batch_size=6, statistics=statistics)
                infer = lambda v, n, run=slices: run(v.movedim(0, -1)[None], n)[0].movedim(-1, 0)  # noqa: E731
            with torch.no_grad():
                found[statistics] = infer(volume, layer), infer(5 * volume + 3, layer)
        torch.testing.assert_close(*found["volume"], atol=1e-3, rtol=0)
        torch.testing.assert_close(found["running"][0], volume, atol=1e-4, rtol=0)
        torch.testing.assert_close(found["running"][1], 5 * volume + 3, atol=1e-3, rtol=0)
        assert not layer.training
        torch.testing.assert_close(layer.state_dict(), before)


class TestShiftTTAInferer:
    @pytest.mark.parametrize(
        ("max_shift", "a_side", "expected"),
        [(0.2, 2, [-0.2, -0.1, 0.0, 0.1, 0.2]), (0.2, 1, [-0.2, 0, 0.2]), (0, 3, [0])],
    )
    def test_as_many_places_on_either_side(self, max_shift: float, a_side: int, expected: list[float]) -> None:
        seen: list[int] = []
        inferer = ShiftTTAInferer([1], max_shift, a_side, shift_std=0.1, entropy_weight=1.0, statistics="running")
        network = nn.Conv2d(1, 2, 1).requires_grad_(False)
        network.register_forward_pre_hook(lambda _, args: seen.append(int(args[0][0, 0, :, 0].argmax())))
        volume = torch.zeros(1, 1, 20, 4)
        volume[:, :, 10] = 1.0
        inferer(volume, network)
        assert seen == [10 + round(20 * shift) for shift in expected]


class TestOrder:
    def test_logits_then_ordered_probabilities(self) -> None:
        network = nn.Conv2d(1, 3, 1).requires_grad_(False)
        order = lambda probs: probs.flip(1)  # noqa: E731
        volume = torch.rand(1, 1, 8, 8, 5)
        plain = SlicewiseInferer(roi_size=(8, 8), spatial_dim=2, sw_batch_size=5)(volume, network)
        both = SlicewiseInferer(roi_size=(8, 8), spatial_dim=2, sw_batch_size=5, orders=[order])(volume, network)
        assert both.shape == (1, 6, 8, 8, 5)
        torch.testing.assert_close(both[:, :3], plain)
        torch.testing.assert_close(both[:, 3:].exp(), plain.softmax(1).flip(1))


class TestOneWindow:
    """A scan that is hardly higher than the window goes through the network once, in a window as high as training's."""

    @staticmethod
    def run(rows: int, columns: int = 8) -> tuple[Tensor, Tensor, list[tuple[int, ...]], nn.Module]:
        network = nn.Conv2d(1, 2, 3, padding=1).requires_grad_(False)
        seen: list[tuple[int, ...]] = []
        network.register_forward_pre_hook(lambda _, args: seen.append(tuple(args[0].shape)))
        volume = torch.rand(2, 1, rows, columns, 5)
        inferer = SlicewiseInferer(roi_size=(100, 8), spatial_dim=2, sw_batch_size=4, overlap=0.5, mode="gaussian")
        return volume, inferer(volume, network), seen, network

    @pytest.mark.parametrize("rows", [101, 102])
    def test_hardly_higher(self, rows: int) -> None:
        volume, found, seen, network = self.run(rows)
        assert seen == [(4, 1, 100, 8), (4, 1, 100, 8), (2, 1, 100, 8)]
        top = (rows - 99) // 2  # of 1 or 2 rows more the first, or one on either side, is cut off
        for number in (0, 1):
            alone = network(volume[number, :, top : top + 100].movedim(-1, 0)).movedim(0, -1)
            torch.testing.assert_close(found[number, :, top : top + 100], alone)
            torch.testing.assert_close(found[number, :, :top], alone[:, :1].expand(-1, top, -1, -1))
            below = alone[:, -1:].expand(-1, rows - top - 100, -1, -1)
            torch.testing.assert_close(found[number, :, top + 100 :], below)

    @pytest.mark.parametrize(("rows", "columns"), [(100, 8), (100, 5), (61, 8), (30, 3), (103, 8), (190, 7)])
    def test_monai_s_result_elsewhere(self, rows: int, columns: int) -> None:
        volume, found, _, network = self.run(rows, columns)
        plain = SliceInferer(roi_size=(100, 8), spatial_dim=2, sw_batch_size=4, overlap=0.5, mode="gaussian")
        torch.testing.assert_close(found, plain(volume, network))


class Bright(nn.Module):
    """Marks bright pixels, by values that batch normalisation with statistics of its own gives."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(1).eval()

    def forward(self, slices: Tensor) -> Tensor:
        bright = 8 * (self.norm(slices) - 1)
        return torch.cat([-bright, bright], 1)


class BrightOrFree(Bright):
    """Marks bright pixels as class 2, and air as class 1, as a network may a class that no label named."""

    def forward(self, slices: Tensor) -> Tensor:
        background, bright = super().forward(slices).unbind(1)
        return torch.stack([background, 2 * background - 12, bright], 1)


class Hazy(Bright):
    """Marks bright pixels, and suspects a spine everywhere, which draws its centre to that of the window."""

    def forward(self, slices: Tensor) -> Tensor:
        return super().forward(slices).clamp(-0.8, 0.8)


class TestSpineInThePlane:
    """The spine is found wherever it lies, and nothing beside its window matters."""

    def infer(
        self, volume: Tensor, statistics: str = "volume", order: Any = None, network: Any = None, labelled: Any = None
    ) -> Tensor:
        inferer = SlicewiseInferer(
            roi_size=(24, 16), spatial_dim=2, sw_batch_size=64, overlap=0.5, mode="gaussian",
            statistics=statistics, orders=[order] if order else [], labelled=labelled,
        )  # fmt: skip
        with torch.no_grad():
            return inferer(volume, network or Bright())

    @staticmethod
    def scan() -> Tensor:
        """A bright, winding column of 4 pixels in dark noise, 40 x 20 pixels, 5 slices."""
        volume = torch.rand(1, 1, 40, 20, 5, generator=torch.Generator().manual_seed(0))
        for row in range(2, 38):
            start = 8 + round(2 * math.sin(row / 8))
            volume[0, 0, row, start : start + 4] += 4
        return volume

    @pytest.mark.parametrize("statistics", ["running", "volume"])
    @pytest.mark.parametrize("front", [1, 9, 33, 90])
    @pytest.mark.parametrize("back", [0, 50])
    def test_wider(self, statistics: str, front: int, back: int) -> None:
        scan = self.scan()
        tissue = torch.rand(1, 1, 40, front + back, 5, generator=torch.Generator().manual_seed(1))
        wide = torch.cat([tissue[:, :, :, :front], scan, tissue[:, :, :, front:]], 3)
        plain, found = self.infer(scan, statistics), self.infer(wide, statistics)
        assert found.shape == (1, 2, 40, 20 + front + back, 5)
        assert torch.equal(found[:, :, :, front : front + 20], plain)
        label = found.argmax(1)
        assert not label[:, :, :front].any()
        assert not label[:, :, front + 20 :].any()
        assert label.sum() == 36 * 4 * 5

    def test_where_the_search_began_does_not_matter(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The centre lies between two windows, and from either the nearest is the one that it was seen from."""
        found = []
        for start in (0, 2, 3, 4):
            monkeypatch.setattr(SlicewiseInferer, "_coarse_start", lambda *_, at=start: at)
            found.append(self.infer(self.scan(), network=Hazy()))
        for other in found[1:]:
            torch.testing.assert_close(other, found[0])

    @pytest.mark.parametrize(("slices", "searched"), [(1, 1), (2, 2), (10, 2), (15, 3), (60, 8)])
    def test_few_slices_are_searched(self, slices: int, searched: int) -> None:
        network, seen = Bright(), []
        network.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
        inferer = SlicewiseInferer(roi_size=(40, 16), spatial_dim=2, sw_batch_size=64, statistics="volume")
        with torch.no_grad():
            found = inferer(self.scan()[..., :1].repeat(1, 1, 1, 1, slices), network)
        assert seen[:-1] == [searched] * (len(seen) - 1)
        assert seen[-1] == slices
        assert len(seen) <= 6
        assert found.argmax(1).sum() == 36 * 4 * slices

    @pytest.mark.parametrize(("front", "coarse"), [(37, False), (34, False), (40, False), (30, True), (1, True)])
    def test_the_coarse_pass_is_for_spines_off_the_middle(self, front: int, coarse: bool) -> None:
        scan = self.scan()
        around = torch.rand(1, 1, 40, 74, 5, generator=torch.Generator().manual_seed(1))
        wide = torch.cat([around[:, :, :, :front], scan, around[:, :, :, front:]], 3)  # the spine's middle: front + 9.5
        network, seen = Bright(), []
        network.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
        label = self.infer(wide, network=network).argmax(1)
        assert (len(seen) > 4) is coarse  # the middle, the window around the spine once or twice, all slices
        assert torch.equal(label[:, :, front : front + 20], self.infer(scan).argmax(1))
        assert label.sum() == 36 * 4 * 5

    def test_an_order_sees_the_columns_of_the_spine_alone(self) -> None:
        seen = []

        def turned(probs: Tensor) -> Tensor:
            seen.append(probs.shape[-1])
            return probs.flip(1)

        logits = torch.full((1, 2, 6, 30, 3), -9.0)
        logits[:, 0] = 9.0
        logits[0, :, 2, 12:15] = torch.tensor([-4.0, 4.0])[:, None, None]
        found = append_decoded(logits, [turned])
        assert seen == [5]
        assert torch.equal(found[:, :2], logits)
        within, whole = found[:, 2:, :, 11:16].exp(), torch.zeros(1, 2, 6, 30, 3)
        torch.testing.assert_close(within, logits[:, :, :, 11:16].softmax(1).flip(1).clamp_min(1e-6))
        whole[:, 0], whole[:, 1] = 1.0, 1e-6
        whole[:, :, :, 11:16] = within
        torch.testing.assert_close(found[:, 2:].exp(), whole)

    def test_a_class_that_no_label_named_shows_no_spine(self) -> None:
        front = torch.rand(1, 1, 40, 60, 5, generator=torch.Generator().manual_seed(1))
        front[:, :, :, :30] -= 4
        wide = torch.cat([front, self.scan()], 3)
        found = self.infer(wide, "running", network=BrightOrFree(), labelled=[0, 2]).argmax(1)
        assert (found == 2).sum() == 36 * 4 * 5
        assert torch.equal(found == 2, self.infer(wide, "running").argmax(1) == 1)
        led_astray = self.infer(wide, "running", network=BrightOrFree()).argmax(1)
        assert (led_astray == 2).sum() < 36 * 4 * 5

    @pytest.mark.parametrize("columns", [10, 16])
    def test_nothing_changes_where_the_scan_fits(self, columns: int) -> None:
        scan, network = self.scan()[:, :, :, 2 : 2 + columns], Bright()
        plain = SliceInferer(roi_size=(24, 16), spatial_dim=2, sw_batch_size=64, overlap=0.5, mode="gaussian")
        with torch.no_grad(), batch_norm_statistics(network, "volume"):
            assert torch.equal(self.infer(scan), plain(scan, network))

    def test_background_outside_also_when_decoded(self) -> None:
        both = self.infer(self.scan(), order=lambda probs: probs)
        assert both.shape == (1, 4, 40, 20, 5)
        assert torch.equal(both[:, :2].argmax(1), both[:, 2:].argmax(1))
        assert both[:, :2].softmax(1)[:, 0, :, [0, 19]].min() > 1 - 1e-6

    def test_several_volumes(self) -> None:
        scan = self.scan()
        pair = self.infer(torch.cat([scan, scan.flip(3)]))
        assert torch.equal(pair[:1], self.infer(scan))
        assert torch.equal(pair[1:], self.infer(scan.flip(3)))

    @pytest.mark.parametrize("front", [0, 60])
    def test_a_class_without_labels_is_background(self, front: int) -> None:
        class WithUnlabelled(Bright):
            """Calls the darkest tissue class 2, of which no label says what it is."""

            def forward(self, slices: Tensor) -> Tensor:
                return torch.cat([super().forward(slices), 6 - 40 * self.norm(slices)], 1)

        tissue = torch.rand(1, 1, 40, front, 5, generator=torch.Generator().manual_seed(1)) - 2
        volume = torch.cat([tissue, self.scan()], 3)
        settings = {"roi_size": (24, 16), "spatial_dim": 2, "sw_batch_size": 64, "overlap": 0.5, "mode": "gaussian"}
        with torch.no_grad():
            free = SlicewiseInferer(**settings)(volume, WithUnlabelled())
            found = SlicewiseInferer(**settings, labelled=[0, 1])(volume, WithUnlabelled())
        assert (free.argmax(1) == 2).any()
        label = found.argmax(1)
        assert torch.equal(label, (volume[:, 0] > 1).long())
        part = found[:, :, :, front + 4 : front + 16]  # inside of the window, wherever it lies
        logits = WithUnlabelled()(volume[:, :, :, front + 4 : front + 16].squeeze(0).movedim(-1, 0)).movedim(0, -1)
        assert part.softmax(1)[:, 2].max() == 0
        if not front:  # the window covers all of it, but for the normalisation
            assert part.shape[1:] == logits.shape

    def test_no_spine(self) -> None:
        assert self.infer(torch.zeros(1, 1, 30, 40, 3)).shape == (1, 2, 30, 40, 3)


class TestPromptMapInferer:
    NETWORK = nn.Sequential(nn.Conv2d(1, 4, 4, stride=4), nn.Softmax(1)).requires_grad_(False)
    GUIDED = staticmethod(partial(prompt_guided_map, gate=0.05))

    def test_twin(self) -> None:
        volume = torch.rand(5, 1, 12, 8)
        logits = PromptMapInferer(self.GUIDED, chunk=2)(volume, self.NETWORK)
        assert logits.shape == (5, 4, 12, 8)
        assert sorted(logits.unique().tolist()) == [0.0, PromptMapInferer.CERTAIN]
        assert logits.softmax(1).amax(1).min() > 1 - 1e-6
        assert len(logits.argmax(1).unique()) > 1
        for number in range(5):
            maps = upsample(self.NETWORK(volume[number : number + 1]), (12, 8))
            assert torch.equal(logits[number : number + 1].argmax(1), self.GUIDED(maps, otsu_thresholds(maps)))

    def test_neighbours(self) -> None:
        volume, network = torch.rand(3, 1, 12, 8), self.NETWORK
        found = PromptMapInferer(self.GUIDED, neighbours=1)(volume, network).argmax(1)
        maps = upsample(network(volume).mean(0, keepdim=True), (12, 8))
        assert torch.equal(found[1:2], self.GUIDED(maps, otsu_thresholds(maps)))

    def test_volume_with_slices_last(self) -> None:
        volume, inferer = torch.rand(5, 1, 12, 8), PromptMapInferer(self.GUIDED)
        whole = inferer(volume.movedim(0, -1)[None], self.NETWORK)
        assert whole.shape == (1, 4, 12, 8, 5)
        assert torch.equal(whole[0].movedim(-1, 0), inferer(volume, self.NETWORK))


class TestToDevice:
    def test_nested(self) -> None:
        batch = {"a": {"x": torch.ones(2), "name": "case", "n": 3}, "b": None, "t": torch.zeros(1)}
        moved = to_device(batch, "meta")
        assert moved["a"]["x"].device.type == moved["t"].device.type == "meta"
        assert (moved["a"]["name"], moved["a"]["n"], moved["b"]) == ("case", 3, None)
        assert batch["t"].device.type == "cpu"
