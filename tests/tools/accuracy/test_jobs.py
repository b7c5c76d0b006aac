from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from scripts.tools.accuracy import jobs as queue
from scripts.tools.accuracy.jobs import Job, Locks, clock, remaining_s, run_jobs, share, with_needs


class Work:
    """Jobs that write down what they did."""

    def __init__(self, *done: str) -> None:
        self.done = list(done)

    def job(self, name: str, *needs: Job, fails: bool = False) -> Job:
        def do() -> None:
            if fails:
                raise RuntimeError("first line\nlast line")
            self.done.append(name)

        return Job(name, name[0], 10, lambda: "done" if name in self.done else "to do", do, needs)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "POLL_S", 0.01)


class TestWithNeeds:
    def test_value(self) -> None:
        work = Work("c", "w")
        warm, other = work.job("w"), work.job("o")
        jobs = [work.job("a", warm, other), work.job("b", other), work.job("c", work.job("never"))]
        assert [job.name for job in with_needs(jobs)] == ["o", "a", "b"]


class TestRunJobs:
    @pytest.mark.parametrize("at_once", [1, 3])
    def test_order(self, at_once: int, tmp_path: Path) -> None:
        work = Work()
        warm = work.job("w")
        jobs = [work.job(f"a{n}", warm) for n in range(4)]
        calls: list[int] = []
        assert run_jobs(with_needs(jobs), at_once, Locks(tmp_path), lambda: calls.append(len(work.done))) == {}
        assert work.done[0] == "w"
        assert sorted(work.done[1:]) == ["a0", "a1", "a2", "a3"]
        assert len(calls) == 5
        assert list(tmp_path.iterdir()) == []

    def test_a_failure_stops_only_who_needs_it(self, tmp_path: Path) -> None:
        work = Work()
        broken = work.job("w", fails=True)
        failed = run_jobs(with_needs([work.job("a", broken), work.job("b")]), 1, Locks(tmp_path))
        assert {name: str(error).splitlines()[-1] for name, error in failed.items()} == {
            "w": "last line",
            "a": "it needs w, which failed",
        }
        assert work.done == ["b"]

    def test_work_of_others_is_waited_for(self, tmp_path: Path) -> None:
        """Another process holds the warm start; other work goes on, and what needs it comes when it is done."""
        work, theirs = Work(), Locks(tmp_path)
        assert theirs.claim("w")
        warm = work.job("w")

        def finish() -> None:
            if "w" not in work.done:
                work.done.append("w")
                theirs.release("w")

        assert run_jobs(with_needs([work.job("a", warm), work.job("b")]), 1, Locks(tmp_path), after=finish) == {}
        assert work.done == ["b", "w", "a"]


class TestLocks:
    def test_one_holder(self, tmp_path: Path) -> None:
        first, second = Locks(tmp_path / "deep"), Locks(tmp_path / "deep")
        assert first.claim("a")
        assert not second.claim("a")
        assert second.claim("b")
        first.release("a")
        assert second.claim("a")
        second.release_all()
        assert list((tmp_path / "deep").iterdir()) == []

    def test_a_killed_holder_is_followed_at_once(self, tmp_path: Path) -> None:
        program = (
            "import sys, time; from pathlib import Path; from scripts.tools.accuracy.jobs import Locks; "
            "locks = Locks(Path(sys.argv[1])); print(locks.claim('a'), flush=True); time.sleep(60)"
        )
        root = Path(__file__).resolve().parents[3]
        line = [sys.executable, "-c", program, str(tmp_path)]
        with subprocess.Popen(line, cwd=root, stdout=subprocess.PIPE, text=True) as holder:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "True\n"
            mine = Locks(tmp_path)
            assert not mine.claim("a")
            holder.kill()
            holder.wait()
            assert mine.claim("a")

    def test_a_lock_given_back_meanwhile_is_taken_by_one(self, tmp_path: Path) -> None:
        """Many take, give back and so remove the same file: never do two hold it."""
        inside, most = [0], [0]

        def work() -> None:
            locks = Locks(tmp_path)
            for _ in range(200):
                if locks.claim("a"):
                    inside[0] += 1
                    most[0] = max(most[0], inside[0])
                    time.sleep(0)
                    inside[0] -= 1
                    locks.release("a")

        with ThreadPoolExecutor(8) as pool:
            for done in [pool.submit(work) for _ in range(8)]:
                done.result()
        assert most == [1]
        assert list(tmp_path.iterdir()) == []


class TestRemaining:
    def test_value(self) -> None:
        work = Work()
        timed = [(work.job("a1"), 20.0), (work.job("a2"), 40.0), (work.job("b1"), 120.0)]  # 3 and 12 s a step, 6 in all
        assert remaining_s(timed, [work.job("a3"), work.job("b2")]) == pytest.approx(30 + 120)
        assert remaining_s(timed, [work.job("c")]) == pytest.approx(60)
        assert remaining_s([], [work.job("c")]) == 0


class TestClock:
    def test_value(self) -> None:
        assert [clock(s) for s in (20, 100, 3599, 3900)] == ["0 min", "2 min", "1:00 h", "1:05 h"]


class TestShare:
    def test_all_shares_are_all_jobs(self) -> None:
        work = Work()
        jobs = [work.job(str(n)) for n in range(7)]
        shares = [share(jobs, number, 3) for number in (1, 2, 3)]
        assert [job.name for job in shares[1]] == ["1", "4"]
        assert sorted(job.name for some in shares for job in some) == [job.name for job in jobs]

    @pytest.mark.parametrize("number", [0, 4])
    def test_exception(self, number: int) -> None:
        with pytest.raises(ValueError, match=f"a share is 1/3 to 3/3, got {number}/3"):
            share([], number, 3)
