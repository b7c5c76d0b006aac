from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from scripts.ops.ema import update_ema_, warmup_decay


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Conv2d(2, 3, 1))
    net(torch.randn(2, 1, 5, 5) * (seed + 1))  # gives the running statistics values of their own
    return net


def state(net: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in net.state_dict().items()}


PARAMETERS = {name for name, _ in network(0).named_parameters()}


class TestWarmupDecay:
    def test_value(self) -> None:
        assert [warmup_decay(step, 0.99) for step in (0, 1, 3, 99, 10_000)] == [0.0, 0.5, 0.75, 0.99, 0.99]


class TestUpdateEma:
    @pytest.mark.parametrize("buffers", ["batch", "average", "copy"])
    def test_twin(self, buffers: str) -> None:
        teacher, student = network(1), network(2)
        student(torch.randn(2, 1, 5, 5))  # its count of batches now differs from the teacher's
        before, theirs = state(teacher), state(student)
        update_ema_(teacher, student, 0.75, buffers)
        for name, value in teacher.state_dict().items():
            average = 0.75 * before[name] + 0.25 * theirs[name]
            if name in PARAMETERS or (buffers == "average" and value.is_floating_point()):
                torch.testing.assert_close(value, average, msg=name)
            else:
                assert torch.equal(value, before[name] if buffers == "batch" else theirs[name]), name

    def test_value_of_the_ends(self) -> None:
        teacher, student = network(1), network(2)
        before = state(teacher)
        update_ema_(teacher, student, 1.0, "average")
        assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items() if v.is_floating_point())
        update_ema_(teacher, student, 0.0, "average")
        assert all(torch.equal(v, student.state_dict()[k]) for k, v in teacher.state_dict().items())

    @pytest.mark.parametrize("buffers", ["batch", "average", "copy"])
    def test_value_is_never_aliased(self, buffers: str) -> None:
        teacher, student = network(1), network(2)
        update_ema_(teacher, student, 0.0, buffers)
        ours, theirs = ({t.data_ptr() for t in (*net.parameters(), *net.buffers())} for net in (teacher, student))
        assert not ours & theirs
        after = state(teacher)
        with torch.no_grad():
            for tensor in (*student.parameters(), *student.buffers()):
                tensor.add_(1)
        assert all(torch.equal(v, after[k]) for k, v in teacher.state_dict().items())

    def test_value_no_graph_and_student_untouched(self) -> None:
        teacher, student = network(1), network(2)
        before = state(student)
        update_ema_(teacher, student, 0.5, "copy")
        assert all(p.grad_fn is None and p.requires_grad for p in teacher.parameters())
        assert all(torch.equal(v, before[k]) for k, v in student.state_dict().items())

    def test_exception(self) -> None:
        with pytest.raises(ValueError, match="buffers must be one of batch, average, copy, got 'none'"):
            update_ema_(network(1), network(2), 0.5, "none")
        with pytest.raises(ValueError, match=r"decay must be in \[0, 1\], got 1\.5"):
            update_ema_(network(1), network(2), 1.5)
        with pytest.raises(ValueError, match=r"differ in their parameters: \['bias'\]"):
            update_ema_(nn.Linear(2, 2), nn.Linear(2, 2, bias=False), 0.5)
        with pytest.raises(ValueError, match=r"weight must be \(2, 2\) as in the teacher, got \(2, 3\)"):
            update_ema_(nn.Linear(2, 2), nn.Linear(3, 2), 0.5)

    @given(st.floats(0, 1), st.integers(1, 5))
    @settings(max_examples=20)
    def test_property_a_constant_student_is_approached(self, decay: float, steps: int) -> None:
        teacher, student = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
        nn.init.zeros_(teacher.weight)
        nn.init.ones_(student.weight)
        for _ in range(steps):
            update_ema_(teacher, student, decay)
        assert teacher.weight.item() == pytest.approx(1 - decay**steps, abs=1e-5)
