"""The optimisation step: where it stops, and in which precision it computes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from scripts.data.datalist import DataError
from scripts.training import finite, step
from scripts.training.finite import FiniteLoss, require_finite
from scripts.training.step import OptimizationStep


def engine(network: nn.Module, iteration: int = 1, amp: bool = False, scaler: Any = None) -> Any:
    state = SimpleNamespace(device=torch.device("cpu"), iteration=iteration, epoch=2, epoch_length=4, max_epochs=3)
    return SimpleNamespace(state=state, network=network, amp=amp, scaler=scaler, non_blocking=False)


class Squares:
    """Loss of a linear network, times a factor; `seen` holds the type in which it computed."""

    def __init__(self, factor: float = 1.0) -> None:
        self.network, self.factor = nn.Linear(3, 1), factor

    def __call__(self, batch: dict[str, Any], progress: float) -> dict[str, Tensor]:
        out = self.network(batch["image"])
        self.seen = out.dtype
        part = out.float().square().mean()
        return {"loss": self.factor * part, "supervised": part, "prompt": self.factor * part}

    def step(self, **options: Any) -> OptimizationStep:
        return OptimizationStep(self, torch.optim.SGD(self.network.parameters(), 0.1), **options)


BATCH = {"image": torch.ones(2, 3)}


class TestStopsAtWhatIsNotFinite:
    @pytest.mark.parametrize("factor", [float("nan"), float("inf")])
    def test_loss(self, factor: float) -> None:
        """At once, before the optimiser carries it into the weights, naming step and part."""
        objective = Squares(factor)
        with pytest.raises(DataError, match=r"^the loss is not a finite number from step 3 on \(part prompt\); give a"):
            objective.step()(engine(objective.network, iteration=3), BATCH)
        require_finite(objective.network.parameters(), "the weights")

    def test_weight(self) -> None:
        """A gradient may be NaN where the loss is not; the end of the epoch comes before anything is written."""
        objective = Squares()
        objective.network.weight.register_hook(lambda gradient: gradient * float("nan"))
        taken = objective.step()
        taken(engine(objective.network, iteration=3), BATCH)
        objective.network.weight.data.fill_(1.0)
        with pytest.raises(DataError, match=r"^the weights after epoch 2 are not all finite numbers; give a smaller"):
            taken(engine(objective.network, iteration=4), BATCH)

    def test_a_device_is_looked_at_now_and_then(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """And the first step that failed is told all the same."""
        check, looked = FiniteLoss(interval=5), []
        monkeypatch.setattr(Tensor, "device", SimpleNamespace(type="cuda"))
        monkeypatch.setattr(torch, "zeros", lambda size, dtype, device: torch.full(size, 0, dtype=dtype))
        monkeypatch.setattr(Tensor, "__int__", lambda self: looked.append(number) or self.item())
        state = SimpleNamespace(epoch_length=7)
        for number in range(1, 10):
            state.iteration = number
            check({"loss": torch.tensor(1.0)}, SimpleNamespace(state=state))  # type: ignore[arg-type]
        assert looked == [5, 7]
        state.iteration = number = 11
        check({"loss": torch.tensor(float("nan"))}, SimpleNamespace(state=state))  # type: ignore[arg-type]
        state.iteration = number = 14
        with pytest.raises(DataError, match="from step 11 on;"):
            check({"loss": torch.tensor(1.0)}, SimpleNamespace(state=state))  # type: ignore[arg-type]

    def test_finite_weights_pass(self) -> None:
        require_finite([torch.ones(2), torch.tensor(2**40)], "the weights")
        require_finite([], "the weights")
        with pytest.raises(DataError, match=f"the weights are not all finite numbers; {finite.MEND[:20]}"):
            require_finite([torch.ones(2), torch.tensor([1.0, float("inf")])], "the weights")


class Scaler:
    """Doubles the loss, as `GradScaler` would scale it, and notes what is asked of it."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def scale(self, loss: Tensor) -> Tensor:
        self.asked.append("scale")
        return 2 * loss

    def unscale_(self, optimizer: torch.optim.Optimizer) -> None:
        self.asked.append("unscale_")
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad /= 2

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        self.asked.append("step")
        optimizer.step()

    def update(self) -> None:
        self.asked.append("update")


class TestPrecision:
    def test_float32_unless_asked(self) -> None:
        objective = Squares()
        objective.step()(engine(objective.network), BATCH)
        assert objective.seen == torch.float32

    def test_bfloat16_needs_no_scaler(self) -> None:
        objective, scaler = Squares(), Scaler()
        objective.step()(engine(objective.network, amp=True, scaler=scaler), BATCH)
        assert objective.seen == torch.bfloat16
        assert scaler.asked == []

    def test_float16_with_the_scaler(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """As on a V100; the gradients are clipped unscaled, and the step is the same."""
        torch.manual_seed(0)
        objective, scaler = Squares(), Scaler()
        twin = nn.Linear(3, 1)
        twin.load_state_dict(objective.network.state_dict())
        monkeypatch.setattr(step, "half_precision", lambda device: torch.float16)
        monkeypatch.setattr("scripts.ops.precision.half_precision", lambda device: torch.float16)
        objective.step(max_grad_norm=1e3)(engine(objective.network, amp=True, scaler=scaler), BATCH)
        assert objective.seen == torch.float16
        assert scaler.asked == ["scale", "unscale_", "step", "update"]
        twin(BATCH["image"]).square().mean().backward()
        torch.testing.assert_close(
            objective.network.weight.data, twin.weight.data - 0.1 * twin.weight.grad, rtol=1e-2, atol=1e-3
        )
