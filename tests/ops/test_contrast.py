from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from scripts.ops.contrast import (
    cross_attention,
    multi_label_cross_entropy,
    pairwise_cosine,
    sinkhorn,
    soft_cross_entropy,
    symmetric_info_nce,
)


def naive_soft(logits: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    rows = []
    for a in range(logits.shape[0]):
        columns = [b for b in range(logits.shape[1]) if valid[a, b]]
        weight = sum(float(target[a, b]) for b in columns)
        if weight == 0:
            continue
        partition = torch.stack([logits[a, b].exp() for b in columns]).sum()
        terms = [float(target[a, b]) / weight * (logits[a, b].exp() / partition).log() for b in columns]
        rows.append(-torch.stack(terms).sum())
    return torch.stack(rows).mean()


class TestCosines:
    def test_twin(self) -> None:
        a, b = torch.randn(3, 5), torch.randn(4, 5)
        for i in range(3):
            for j in range(4):
                expected = (a[i] @ b[j]) / (a[i].norm() * b[j].norm())
                torch.testing.assert_close(pairwise_cosine(a, b)[i, j], expected)

    def test_autocast(self) -> None:
        with torch.autocast("cpu", torch.bfloat16):
            assert pairwise_cosine(torch.randn(3, 5).bfloat16(), torch.randn(4, 5).bfloat16()).dtype == torch.float32


class TestSoftCrossEntropy:
    def test_twin(self) -> None:
        logits, target, valid = torch.randn(5, 4), torch.rand(5, 4), torch.rand(5, 4) > 0.3
        target[1] = 0  # left out
        torch.testing.assert_close(soft_cross_entropy(logits, target, valid), naive_soft(logits, target, valid))
        everything = torch.ones(5, 4, dtype=torch.bool)
        torch.testing.assert_close(soft_cross_entropy(logits, target), naive_soft(logits, target, everything))

    def test_nothing_counted(self) -> None:
        logits = torch.randn(3, 3, requires_grad=True)
        loss = soft_cross_entropy(logits, torch.eye(3), torch.zeros(3, 3, dtype=torch.bool))
        loss.backward()
        assert loss.item() == 0
        assert torch.equal(logits.grad, torch.zeros(3, 3))

    def test_uncounted_pairs_have_no_gradient(self) -> None:
        logits, valid = torch.randn(3, 3, requires_grad=True), ~torch.eye(3, dtype=torch.bool)
        soft_cross_entropy(logits, torch.rand(3, 3), valid).backward()
        assert torch.equal(logits.grad != 0, valid)

    def test_exception(self) -> None:
        with pytest.raises(ValueError, match=r"target must be \(A, B\) with A=2, B=3, got \(3, 2\)"):
            soft_cross_entropy(torch.zeros(2, 3), torch.zeros(3, 2))


class TestMatchedContrast:
    def test_identity_is_info_nce(self) -> None:
        logits, own = torch.randn(4, 4), torch.arange(4)
        expected = torch.nn.functional.cross_entropy(logits, own) + torch.nn.functional.cross_entropy(logits.T, own)
        torch.testing.assert_close(symmetric_info_nce(logits, torch.eye(4, dtype=torch.bool)), expected / 2)

    def test_twin(self) -> None:
        logits, matches, valid = torch.randn(4, 3), torch.rand(4, 3) > 0.4, torch.rand(4, 3) > 0.3
        expected = naive_soft(logits, matches, valid) + naive_soft(logits.T, matches.T, valid.T)
        torch.testing.assert_close(symmetric_info_nce(logits, matches, valid), expected / 2)


class TestMultiLabelCrossEntropy:
    def test_twin(self) -> None:
        logits, positive, valid = torch.randn(6, 5), torch.rand(6, 5) > 0.5, torch.rand(6, 5) > 0.3
        losses = multi_label_cross_entropy(logits, positive, valid)
        for row in range(6):
            negatives, positives = 1.0, 1.0
            for score, is_positive, is_counted in zip(logits[row], positive[row], valid[row], strict=True):
                if is_counted and is_positive:
                    positives += math.exp(-score)
                elif is_counted:
                    negatives += math.exp(score)
            assert losses[row].item() == pytest.approx(math.log(negatives) + math.log(positives), rel=1e-5)

    def test_nothing_counted(self) -> None:
        logits = torch.randn(2, 3, requires_grad=True)
        loss = multi_label_cross_entropy(logits, logits > 0, torch.zeros(2, 3, dtype=torch.bool))
        loss.sum().backward()
        assert torch.equal(loss, torch.zeros(2))
        assert torch.equal(logits.grad, torch.zeros(2, 3))


class TestAttended:
    def test_twin(self) -> None:
        queries, keys, valid = torch.randn(2, 3, 5), torch.randn(2, 4, 5), torch.rand(2, 4) > 0.3
        result = cross_attention(queries, keys, 0.1, valid)
        for b in range(2):
            for a in range(3):
                known = keys[b][valid[b]]
                shares = torch.stack(
                    [pairwise_cosine(queries[b, a, None], k[None])[0, 0] / 0.1 for k in known]
                ).softmax(0)
                expected = sum(s * k / k.norm() for s, k in zip(shares, known, strict=True))
                torch.testing.assert_close(result[b, a], expected)


class TestSinkhorn:
    def test_shares_are_equal(self) -> None:
        scores = torch.rand(12, 3, requires_grad=True) + torch.tensor([0.5, 0.0, -0.5])  # one prototype is liked best
        codes = sinkhorn(scores, iterations=200)
        assert not codes.requires_grad
        torch.testing.assert_close(codes.sum(1), torch.ones(12))
        torch.testing.assert_close(codes.sum(0), torch.full((3,), 4.0), atol=0.05, rtol=0)

    def test_large_scores_do_not_overflow(self) -> None:
        assert sinkhorn(100 * torch.randn(6, 4)).isfinite().all()
