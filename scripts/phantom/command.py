"""`python -m scripts phantom FOLDER`: write synthetic volumes and their datalist."""

from __future__ import annotations

import argparse

from .anatomy import ANOMALIES
from .scanners import SCANNERS
from .write import write_phantoms


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("folder", help="receives images/, labels/ and datalist.json")
    parser.add_argument("--labelled", type=int, default=2, help="volumes to train on with labels")
    parser.add_argument("--unlabelled", type=int, default=18, help="volumes to train on without")
    parser.add_argument("--validation", type=int, default=4)
    parser.add_argument("--test", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shape", nargs=2, type=int, default=(256, 256), metavar=("H", "W"), help="pixels of a slice")
    parser.add_argument("--pixel-mm", type=float, default=1.1)
    parser.add_argument("--contrast", choices=("t2", "t1"), default="t2")
    parser.add_argument("--scanner", choices=tuple(SCANNERS), help="all on this one; if not given they take turns")
    parser.add_argument("--mixed-axes", action="store_true", help="store volumes in other axes and slightly oblique")
    parser.add_argument("--anomaly", choices=tuple(ANOMALIES), help="transitional anatomy of the lumbosacral junction")


def run(args: argparse.Namespace) -> int:
    """Draw the volumes and print where the datalist is."""
    counts = {name: getattr(args, name) for name in ("labelled", "unlabelled", "validation", "test", "seed")}
    drawing = {name: getattr(args, name) for name in ("pixel_mm", "contrast", "scanner", "mixed_axes", "anomaly")}
    drawing["shape_hw"] = tuple(args.shape)
    print(write_phantoms(args.folder, **counts, **drawing))
    return 0
