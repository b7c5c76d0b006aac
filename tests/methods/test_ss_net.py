from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from scripts.labels import IGNORE
from scripts.methods.ss_net import SSNet, dice_distance, draw_pixels, unit
from scripts.networks.ss_net_heads import ClassSelectors, SeparationHeads
from scripts.ops.losses import PartialLabelCrossEntropy, sigmoid_ramp
from tests.tiny import CLASSES, SIZE, batch, network, stream, train

WEIGHTS = {"supervised": 0.7, "smoothness": 1.3, "separation": 0.4}
EVERYTHING = 10 * SIZE * SIZE
LABEL = [stream(batch=3, seed=1)["label"][:, 0].long(), stream(seed=2)["label"][:, 0].long()]


def objective(ramp: Callable[[float], float] = lambda p: p, **options: Any) -> SSNet:
    student = network()
    torch.manual_seed(1)
    heads = SeparationHeads(4, CLASSES, 6)
    return SSNet(student, heads, PartialLabelCrossEntropy(), WEIGHTS, ramp, **options)


def parameters(method: SSNet) -> list[nn.Parameter]:
    return [*method.student.parameters(), *method.heads.parameters()]


def unequal() -> dict[str, Any]:
    """Three labelled slices with pixels that are left out, two unlabelled ones."""
    data = batch()
    data["labelled"] = stream(batch=3, seed=1)
    data["labelled"]["label"][0, 0, :, :5] = IGNORE
    return data


def running(model: nn.Module) -> list[Tensor]:
    return [buffer.clone() for buffer in model.buffers()]


class TestSSNet:
    def test_total(self) -> None:
        losses = objective()(unequal(), 0.5)
        assert set(losses) == {"loss", "supervised", "smoothness", "separation"}
        total = 0.7 * losses["supervised"] + 0.5 * (1.3 * losses["smoothness"] + 0.4 * losses["separation"])
        torch.testing.assert_close(losses["loss"], total)

    def test_supervised_is_the_shared_loss(self) -> None:
        method, data = objective(), unequal()
        labelled = data["labelled"]
        expected = method.supervised_loss(
            method.student(labelled["image"]), labelled["label"][:, 0].long(), labelled["is_unlabelled"]
        )
        torch.testing.assert_close(method(data, 1.0)["supervised"], expected)

    def test_overfits(self) -> None:
        method = objective()
        losses = train(method, parameters(method), batch())
        assert losses[-1] < 0.5 * losses[0]

    def test_every_part_is_trained(self) -> None:
        method = objective()
        train(method, parameters(method), batch(), steps=20)  # correct pixels give prototypes
        method(batch(), 1.0)["loss"].backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in parameters(method))
        assert any(p.grad.abs().sum() > 0 for p in method.heads.prototype_selectors.parameters())

    def test_labels_of_unlabelled_images_cannot_matter(self) -> None:
        found = []
        for label in (None, torch.full((2, 1, SIZE, SIZE), 99)):
            data = batch()
            if label is not None:
                data["unlabelled"]["label"] = label
            torch.manual_seed(0)
            found.append(objective()(data, 1.0)["loss"])
        assert torch.equal(*found)

    def test_without_unlabelled_stream(self) -> None:
        losses = objective()(batch(unlabelled=False), 1.0)
        assert set(losses) == {"loss", "supervised"}
        torch.testing.assert_close(losses["loss"], 0.7 * losses["supervised"])

    def test_before_the_ramp_unlabelled_slices_are_not_read(self) -> None:
        method, data = objective(ramp=partial(sigmoid_ramp, start=0.5, length=0.1)), batch()
        method.heads = nn.Module()
        assert set(method({**data, "unlabelled": {}}, 0.49)) == {"loss", "supervised"}
        with pytest.raises(AttributeError, match="feature_selectors"):
            method(data, 0.5)

    def test_random_state_decides(self) -> None:
        def loss(seed: int) -> Tensor:
            method = objective(pixels=4)
            torch.manual_seed(seed)
            return method(batch(), 1.0)["loss"]

        assert torch.equal(loss(3), loss(3))
        assert not torch.equal(loss(3), loss(4))

    def test_partially_labelled_classes(self) -> None:
        data, partly = batch(), batch()
        partly["labelled"]["is_unlabelled"][:, 2] = True
        found = []
        for one in (data, partly):
            method = objective()
            torch.manual_seed(0)
            found.append(method(one, 1.0))
        assert found[1]["supervised"] < found[0]["supervised"]
        for name in ("smoothness", "separation"):
            torch.testing.assert_close(found[1][name], found[0][name])

    def test_mixed_precision(self) -> None:
        method = objective()
        with torch.autocast("cpu", torch.bfloat16):
            losses = method(batch(), 1.0)
        assert {loss.dtype for loss in losses.values()} == {torch.float32}
        losses["loss"].backward()
        assert all(p.grad.isfinite().all() for p in method.student.parameters())

    def test_exception(self) -> None:
        with pytest.raises(ValueError, match="pixels and prototypes must be at least 1, got 0 and 32"):
            objective(pixels=0)


class TestSmoothness:
    def run(self, method: SSNet, data: dict[str, Any]) -> Tensor:
        images = [data[name]["image"] for name in ("labelled", "unlabelled")]
        counted = [data["labelled"]["label"] != IGNORE, torch.ones_like(images[1], dtype=torch.bool)]
        clean = [method.student(image).softmax(1).detach() for image in images]
        torch.manual_seed(0)
        return method.smoothness(images, clean, counted)

    def test_twin(self) -> None:
        method, data = objective(xi=2.0, radius=3.0), unequal()
        images = [data[name]["image"] for name in ("labelled", "unlabelled")]
        mask = [data["labelled"]["label"] != IGNORE, torch.ones_like(images[1], dtype=torch.bool)]
        clean = [method.student(image).softmax(1).detach() for image in images]

        def distance(noisy: list[Tensor]) -> Tensor:
            probs = [method.student(x).softmax(1) for x in noisy]
            total = torch.zeros(())
            for c in range(CLASSES):
                pairs = [(p[:, c][m[:, 0]], q[:, c][m[:, 0]]) for p, q, m in zip(probs, clean, mask, strict=True)]
                p, q = torch.cat([pair[0] for pair in pairs]), torch.cat([pair[1] for pair in pairs])
                total = total + 1 - (2 * (p * q).sum() + 1e-5) / ((p * p).sum() + (q * q).sum() + 1e-5)
            return total / CLASSES

        found = self.run(method, data)
        torch.manual_seed(0)
        start = [torch.rand(image.shape) - 0.5 for image in images]
        noisy = [x + 2.0 * torch.stack([n / n.norm() for n in d]) for x, d in zip(images, start, strict=True)]
        for x in noisy:
            x.requires_grad_()
        distance(noisy).backward()
        worst = [x + 3.0 * torch.stack([g / g.norm() for g in n.grad]) for x, n in zip(images, noisy, strict=True)]
        torch.testing.assert_close(found, distance(worst), rtol=1e-4, atol=1e-6)

    def test_worse_than_chance(self) -> None:
        method, data = objective(), unequal()
        image = data["unlabelled"]["image"]
        clean, everywhere = method.student(image).softmax(1).detach(), torch.ones_like(image, dtype=torch.bool)
        random = method.student(image + method.radius * unit(torch.randn_like(image))).softmax(1)
        assert method.smoothness([image], [clean], [everywhere]) > dice_distance([random], [clean], [everywhere])

    def test_running_averages_are_left_alone(self) -> None:
        method, data = objective(), unequal()
        images = [data[name]["image"] for name in ("labelled", "unlabelled")]
        before = running(method.student)
        clean = [torch.full((len(image), CLASSES, SIZE, SIZE), 1 / CLASSES) for image in images]
        method.smoothness(images, clean, [torch.ones_like(image, dtype=torch.bool) for image in images])
        assert all(torch.equal(a, b) for a, b in zip(running(method.student), before, strict=True))

    def test_pixels_left_out(self) -> None:
        method, data = objective(radius=0.0), unequal()
        image = data["labelled"]["image"]
        counted, clean = data["labelled"]["label"] != IGNORE, method.student(image).softmax(1).detach()
        wrong = torch.where(counted, clean, clean.flip(1))
        assert method.smoothness([image], [wrong], [counted]) < 1e-5

    def test_direction_leaves_no_gradient_on_weights(self) -> None:
        method, data = objective(radius=0.0), unequal()
        term = self.run(method, data)
        assert all(p.grad is None for p in method.student.parameters())
        assert term.requires_grad


class TestSeparation:
    def features(self) -> list[Tensor]:
        generator = torch.Generator().manual_seed(0)
        return [torch.randn(len(x), 4, SIZE, SIZE, generator=generator) for x in LABEL]

    def test_twin(self) -> None:
        method, features = objective(pixels=EVERYTHING, prototypes=5), self.features()
        correct = torch.rand(LABEL[0].shape) < 0.5
        found = method.separation(features, LABEL, correct)
        heads, projected, predicted = method.heads, [], []
        rows = [f.movedim(1, -1)[x > 0] for f, x in zip(features, LABEL, strict=True)]
        both = heads.projector(torch.cat(rows))
        projected, predicted = (x.split([len(r) for r in rows]) for x in (both, heads.predictor(both)))

        def select(selectors: ClassSelectors, c: int, row: Tensor) -> Tensor:
            hidden = row @ selectors.hidden[c] + selectors.hidden_bias[c, 0]
            hidden = torch.where(hidden > 0, hidden, 0.2 * hidden)
            return (hidden @ selectors.score[c] + selectors.score_bias[c, 0])[0]

        total = torch.zeros(())
        for q, x in zip(predicted, LABEL, strict=True):
            for c in range(1, CLASSES):
                right = correct[LABEL[0] > 0] & (LABEL[0][LABEL[0] > 0] == c)
                ranked = sorted(
                    projected[0][right].detach(), key=lambda z, c=c: select(heads.prototype_selectors, c, z)
                )
                prototypes, mine = ranked[:5], q[x[x > 0] == c]
                wz = torch.stack([select(heads.prototype_selectors, c, z).sigmoid() for z in prototypes])
                wq = torch.stack([select(heads.feature_selectors, c, one).sigmoid() for one in mine])
                wz, wq = wz / wz.mean(), wq / wq.mean()
                cosine = torch.stack([torch.cosine_similarity(mine, z[None]) for z in prototypes], 1)
                total = total + (wq[:, None] * wz * (1 - cosine)).mean() / (CLASSES - 1) / 2
        torch.testing.assert_close(found, total)

    def test_no_gradient_reaches_prototypes_or_background(self) -> None:
        method, features = objective(pixels=EVERYTHING), [f.requires_grad_() for f in self.features()]
        nothing = torch.zeros_like(LABEL[0], dtype=torch.bool)
        assert method.separation(features, LABEL, nothing) == 0  # no prototypes, nothing to come close to
        method.separation(features, LABEL, ~nothing).backward()
        assert features[0].grad.movedim(1, -1)[LABEL[0] == 0].abs().sum() == 0

    def test_nothing_but_background(self) -> None:
        features = [f.requires_grad_() for f in self.features()]
        empty = [torch.zeros_like(x) for x in LABEL]
        term = objective().separation(features, empty, empty[0] == 0)
        term.backward()
        assert term == 0

    def test_stream_without_foreground(self) -> None:
        features = self.features()
        for classes in ([LABEL[0], torch.zeros_like(LABEL[1])], [torch.zeros_like(LABEL[0]), LABEL[1]]):
            assert objective().separation(features, classes, classes[0] > 0).isfinite()


class TestDrawPixels:
    def test_few_of_each_class(self) -> None:
        label = stream(batch=3)["label"][:, 0].long()
        label[0, 0] = IGNORE
        drawn = draw_pixels(label, CLASSES, 7)
        assert torch.equal(label.flatten()[drawn.position], drawn.label)
        assert len(drawn.position.unique()) == len(drawn.position)
        assert torch.bincount(drawn.label, minlength=CLASSES).tolist() == [0, 7, 7, 7]
        assert drawn.by_class(drawn.rank, CLASSES)[1:].tolist() == 3 * [list(range(7))]
        assert drawn.is_pixel(CLASSES).sum(1).tolist() == [0, 7, 7, 7]

    def test_fewer_than_asked_for(self) -> None:
        drawn = draw_pixels(torch.tensor([[[0, 1, 1, 3]]]), CLASSES, 7)
        assert sorted(drawn.position.tolist()) == [1, 2, 3]
        assert drawn.is_pixel(CLASSES).tolist() == [[False, False], [True, True], [False, False], [True, False]]

    def test_draws_differ(self) -> None:
        label = torch.ones(1, SIZE, SIZE, dtype=torch.long)
        assert not torch.equal(draw_pixels(label, CLASSES, 7).position, draw_pixels(label, CLASSES, 7).position)
