"""What an earlier training left is kept: refusal before the first step; and the command that uses a result."""

from __future__ import annotations

import logging
import shlex
from pathlib import Path

from ..bundle.run_record import recorded_models
from ..data.datalist import DataError
from ..weights import SETTINGS, WEIGHTS

CHECKPOINTS = ("checkpoint.pt", "masked_images/checkpoint.pt")
"""In a run's folder; the latter is of the first part of `masked_images.yaml`."""


def refuse_earlier_results(
    output_dir: str | Path, models: str | Path, key: str, resume: bool = False, overwrite: bool = False
) -> None:
    """Refuse to replace what another run left: its checkpoint, or its network.

    A run that goes on replaces its own: what lies in its folder, and the network in the folder that it recorded.

    Args:
        output_dir: the run's folder.
        models: folder of the network that is kept; "" for none.
        key: of the config, that names `models`.
        resume: the run goes on from its checkpoint.
        overwrite: replace what is there.

    Raises:
        DataError: one sentence, which names the file and the ways out.
    """
    if overwrite:
        return
    folder = Path(output_dir).absolute()
    networks = [Path(models).absolute() / name for name in (WEIGHTS, SETTINGS)] if models else []
    others = [path for path in networks if path.is_file() and folder not in path.parents]
    if resume:
        if others and recorded_models(folder) != others[0].parent:
            raise DataError(
                f"{others[0]} is not of this run, which --resume True goes on with; name another --{key}, or give "
                "--overwrite True to replace it"
            )
        return
    if found := [path for path in (*networks, *(folder / name for name in CHECKPOINTS)) if path.is_file()]:
        place = f"--output_dir and --{key}" if others else "--output_dir"
        raise DataError(
            f"{found[0]} is of an earlier run; go on with that run by --resume True, replace what it left by "
            f"--overwrite True, or name another {place}"
        )


def forget_checkpoints(output_dir: str | Path) -> None:
    """Remove the checkpoints of a run that is replaced: a run that is killed must not go on with those."""
    for name in CHECKPOINTS:
        (Path(output_dir) / name).unlink(missing_ok=True)


def tell_inference_command(models: str | Path, bundle_root: str | Path) -> None:
    """Log the command that labels scans with the network that a training kept, as it is typed in this folder."""
    folder, root, here = Path(models).absolute(), Path(bundle_root).absolute(), Path.cwd()
    if not (folder / WEIGHTS).is_file():
        return
    config = root / "configs/inference.yaml"
    shown = [str(path.relative_to(here) if here in path.parents else path) for path in (config, folder)]
    line = ["python", "-m", "monai.bundle", "run", "inference", "--config_file", shown[0], "--ckpt_dir", shown[1]]
    line += [] if root == here else ["--bundle_root", str(root)]
    line += ["--input_dir", "SCANS", "--output_dir", "OUT"]
    logging.getLogger(__name__).info("label scans with this network by\n%s", shlex.join(line))
