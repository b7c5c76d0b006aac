"""`benchmark names` on a smoke run: the row's own config, network and class prompts, found in another folder."""

from __future__ import annotations

import csv
import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

from scripts.__main__ import main


def test_of_a_run(
    trained: SimpleNamespace, stage1: SimpleNamespace, edited: Callable[..., Path], tmp_path: Path
) -> None:
    row = tmp_path / "cps4_2_0"
    shutil.copytree(trained.models, row / "models")
    shutil.copytree(stage1.models, tmp_path / "models")
    config = (trained.folder / "config.yaml").read_text(encoding="utf-8")
    (row / "config.yaml").write_text(config.replace(str(stage1.datalist), str(edited())), encoding="utf-8")
    (row / "row.json").write_text(json.dumps({"method": "cps4", "labelled": 2, "seed": 0}))
    (tmp_path / "results.csv").write_text(
        "method,labelled,seed,mdice,miou,steps,stage1_steps,map_mdice\ncps4,2,0,,,1,1,\n"
    )
    before = (row / "models" / "model.json").read_bytes()
    assert main(["benchmark", "names", str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    with (tmp_path / "out" / "names.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert {line["evidence"] for line in lines} == {"all", "no prompts", "no network", "geometry alone", "no geometry"}
    assert [line["section"] for line in lines if line["evidence"] == "all"] == ["unlabelled", "unlabelled", "test"]
    assert all(0 <= float(line["mdice"]) <= 1 for line in lines)
    assert "| CPS4 (ours) |" in (tmp_path / "out" / "names.md").read_text(encoding="utf-8")
    assert (row / "models" / "model.json").read_bytes() == before

    # beside an earlier report: its runs stay, one that was named anew is there once, a third is forgotten
    table, published = tmp_path / "out" / "names.csv", tmp_path / "published"
    first = table.read_text().splitlines()
    earlier = [line.replace("cps4,2,0", "bcp,2,1") for line in first[1:]]
    earlier[0] = earlier[0].replace(",False,", ",,")  # no level that could be judged: not right
    stale = [line.replace("cps4,2,0", name) for line in first[1:] for name in ("cps4,2,0", "ucmt,2,0")]
    table.write_text("\n".join([first[0], *stale, *earlier]) + "\n")
    published.with_suffix(".csv").write_text(
        "method,labelled,seed,mdice,miou,steps,stage1_steps,map_mdice\nbcp,2,1,0.5,,1,0,\ncps4,2,0,,,1,1,\n"
    )
    (tmp_path / "published_per_case.csv.gz").write_bytes(gzip.compress(b"method,labelled,seed,dice\n"))
    options = ["--out", str(tmp_path / "out"), "--published", str(published)]
    assert main(["benchmark", "names", str(tmp_path), *options]) == 0
    assert table.read_text().splitlines() == [first[0], *earlier, *first[1:]]
    assert "| BCP  " in (tmp_path / "out" / "names.md").read_text(encoding="utf-8")
