"""`python -m scripts benchmark` with one of the kinds below."""

from __future__ import annotations

import argparse
import importlib

KINDS = {
    "accuracy": ("accuracy.accuracy", "train and score methods under equal conditions"),
    "nnunet": ("accuracy.nnunet", "train and score nnU-Net v2 on the same labelled patients"),
    "prompts": ("accuracy.wordings", "train and score CPS4 under several wordings of its class prompts"),
    "transfer": ("accuracy.transfer", "score a trained network on data that it was not trained for"),
    "shipped": ("accuracy.shipped", "score the network in models/ and write its page"),
    "names": ("accuracy.names", "name spines with one kind of evidence left out, and count what the posterior flags"),
    "measurements": ("accuracy.measurements", "compare measurements of predicted and of true label maps"),
    "bad_input": ("reliability.bad_input", "give every command bad and odd input, and write down what it said"),
    "verdicts": ("reliability.verdicts", "count the verdicts on scans that are made wrong on purpose"),
    "speed": ("speed.speed", "time steps, maps and thresholds against stated references"),
    "exports": ("speed.exports", "time and score exports (TorchScript, ONNX, OpenVINO) against PyTorch"),
    "growth": ("reliability.growth", "time and memory of every step of the work against the number of volumes"),
    "versions": ("reliability.versions", "run the project's tests with the oldest and the newest versions"),
    "mutants": ("reliability.mutants", "change single expressions, and count the changes that the tests notice"),
    "kills": ("reliability.kills", "kill both stages at random moments, go on, and compare the ends bit for bit"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the benchmarks."""
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    for name, (module, words) in KINDS.items():
        benchmark = importlib.import_module(f"scripts.tools.{module}")
        sub = kinds.add_parser(name, help=words, description=benchmark.__doc__)
        benchmark.add_arguments(sub)
        sub.set_defaults(benchmark=benchmark.run)


def run(args: argparse.Namespace) -> int:
    """Run one benchmark."""
    return int(args.benchmark(args) or 0)
