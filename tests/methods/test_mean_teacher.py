from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from scripts.methods.mean_teacher import MeanTeacher
from scripts.ops.losses import PartialLabelCrossEntropy, sigmoid_ramp
from tests.tiny import SIZE, batch, network, train

WEIGHTS = {"supervised": 0.7, "consistency": 1.3}


def objective(
    teacher: nn.Module | None = None, ramp: Callable[[float], float] = lambda p: p, **options: Any
) -> MeanTeacher:
    teacher = network(seed=1) if teacher is None else teacher
    return MeanTeacher(network(), teacher, PartialLabelCrossEntropy(), WEIGHTS, ramp, **options)


def buffers(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.named_buffers()}


class TestMeanTeacher:
    @pytest.mark.parametrize("consistency", ["hard_ce", "mse"])
    def test_twin(self, consistency: str) -> None:
        method, data = objective(consistency=consistency), batch()
        losses = method(data, 0.5)
        image = data["unlabelled"]["image"]
        student, teacher = method.student(image).softmax(1), method.teacher(image).softmax(1)
        term = torch.zeros(())
        for b in range(2):
            for row in range(SIZE):
                for column in range(SIZE):
                    p, q = student[b, :, row, column], teacher[b, :, row, column]
                    term = term + (-p[q.argmax()].log() if consistency == "hard_ce" else (p - q).square().mean())
        torch.testing.assert_close(losses["consistency"], term / (2 * SIZE * SIZE))
        total = 0.7 * losses["supervised"] + 1.3 * 0.5 * losses["consistency"]
        torch.testing.assert_close(losses["loss"], total)

    def test_noise_of_the_teacher_s_view(self) -> None:
        """Drawn from the global generator, cut off at two standard deviations; the student sees the slice as it is."""
        seen: list[Tensor] = []

        class Spy(nn.Module):
            def __init__(self, inner: nn.Module) -> None:
                super().__init__()
                self.inner = inner

            def forward(self, image: Tensor) -> Tensor:
                seen.append(image)
                return self.inner(image)

        method, data = objective(Spy(network(seed=1)), noise=0.1), batch()
        image = data["unlabelled"]["image"]
        torch.manual_seed(4)
        method(data, 0.5)
        torch.manual_seed(4)
        expected = image + (0.1 * torch.randn(image.shape)).clamp(-0.2, 0.2)
        torch.testing.assert_close(seen[0], expected)
        assert 0.05 < (seen[0] - image).std() < 0.12
        assert (seen[0] - image).abs().max() <= 0.2 + 1e-5

    @pytest.mark.parametrize("consistency", ["hard_ce", "mse"])
    def test_overfits(self, consistency: str) -> None:
        teacher, data = network(seed=1), batch()
        train(
            MeanTeacher(teacher, network(), PartialLabelCrossEntropy(), WEIGHTS, lambda p: 0.0),
            teacher.parameters(),
            data,
        )
        method = objective(teacher, consistency=consistency)
        losses = train(method, method.student.parameters(), data)
        assert losses[-1] < 0.5 * losses[0]

    def test_teacher_gets_no_gradient(self) -> None:
        method = objective()
        before = copy.deepcopy(list(method.teacher.parameters()))
        train(method, [*method.student.parameters()], batch(), steps=2)
        assert all(p.grad is None and not p.requires_grad for p in method.teacher.parameters())
        assert all(torch.equal(a, b) for a, b in zip(method.teacher.parameters(), before, strict=True))
        assert not method.teacher_logits(torch.randn(1, 1, SIZE, SIZE)).requires_grad

    def test_labels_of_unlabelled_images_cannot_matter(self) -> None:
        for label in (torch.full((2, 1, SIZE, SIZE), 99), None):
            method, data = objective(), batch()
            if label is not None:
                data["unlabelled"]["label"] = label
            found = method(data, 1.0)["loss"]
            if label is not None:
                garbage = found
        assert torch.equal(found, garbage)

    def test_without_unlabelled_stream(self) -> None:
        losses = objective()(batch(unlabelled=False), 1.0)
        assert set(losses) == {"loss", "supervised"}
        torch.testing.assert_close(losses["loss"], 0.7 * losses["supervised"])

    def test_before_the_ramp_the_teacher_is_not_asked(self) -> None:
        method = objective(nn.Module(), ramp=partial(sigmoid_ramp, start=0.5, length=0.1))
        assert set(method(batch(), 0.49)) == {"loss", "supervised"}
        with pytest.raises(NotImplementedError, match="forward"):
            method(batch(), 0.5)

    def test_partially_labelled_classes(self) -> None:
        method, data = objective(), batch()
        data["labelled"]["is_unlabelled"][:, 2] = True
        changed = method(data, 1.0)
        other = objective()(batch(), 1.0)
        assert changed["supervised"] < other["supervised"]
        torch.testing.assert_close(changed["consistency"], other["consistency"])

    def test_exception(self) -> None:
        with pytest.raises(ValueError, match="consistency must be 'hard_ce' or 'mse', got 'kl'"):
            objective(consistency="kl")
        with pytest.raises(ValueError, match=r"teacher_mode must be one of \('batch', 'running'\), got 'eval'"):
            objective(teacher_mode="eval")


class TestTeacherMode:
    IMAGE = 3 + 2 * torch.randn(2, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))

    def test_batch(self) -> None:
        """Normalised by its own batch: contrast does not matter, and the student's running averages are left alone."""
        method = objective(teacher_mode="batch")
        student, teacher = buffers(method.student), buffers(method.teacher)
        torch.testing.assert_close(
            method.teacher_logits(self.IMAGE), method.teacher_logits(5 * self.IMAGE), atol=1e-3, rtol=1e-3
        )
        torch.testing.assert_close(buffers(method.student), student)
        assert any(
            not torch.equal(a, b) for a, b in zip(buffers(method.teacher).values(), teacher.values(), strict=True)
        )

    def test_running(self) -> None:
        """Normalised by its running averages, which a pass does not move."""
        method = objective(teacher_mode="running")
        for model in (method.student, method.teacher):
            model.train()(self.IMAGE)
        teacher = buffers(method.teacher)
        expected = method.teacher.eval()(self.IMAGE).detach()
        method.teacher.train()
        torch.testing.assert_close(method.teacher_logits(self.IMAGE), expected)
        torch.testing.assert_close(buffers(method.teacher), teacher)

    def test_running_follows_its_buffers(self) -> None:
        method = objective(network(), teacher_mode="running")  # the student's twin
        method.student.train()(self.IMAGE)
        method.teacher.load_state_dict(method.student.state_dict())  # as EMATeacher's buffers="copy" does
        torch.testing.assert_close(method.teacher_logits(self.IMAGE), method.student.eval()(self.IMAGE).detach())
