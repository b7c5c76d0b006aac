"""Selection of DICOM series: the sagittal ones of one contrast in every study."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..datalist import DataError
from .series import Series

SEQUENCES = ("t2", "t1", "stir", "any")
"""Contrasts that can be selected; "stir" is T2 with fat suppression, by inversion or saturation."""
NO_SCANS = {"DOC", "OT", "SC", "SEG"}
"""Modalities that are no scans."""
UNTOLD = "sagittal, of unknown contrast"


@dataclass
class Choice:
    """Selected series, and the reasons.

    Attributes:
        taken: selected series, in the order in which they were found.
        notes: the reason for each series of a study with several.
        warnings: studies of which nothing was selected, or a series of unknown contrast.
    """

    taken: list[Series] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def choose_series(found: Sequence[Series], sequence: str = "t2") -> Choice:
    """Select series in each study.

    The only series of a study is selected in any case, and so are damaged ones, for the check to report them. Of
    several, localisers, copies and non-scans are left out, then other planes, then other contrasts. If no header of a
    study has the wanted contrast, series of unknown contrast are selected.

    Args:
        found: the series.
        sequence: one of `SEQUENCES`.

    Raises:
        DataError: another sequence.
    """
    if sequence not in SEQUENCES:
        raise DataError(f"DICOM series cannot be chosen by {sequence!r}; choose one of {', '.join(SEQUENCES)}")
    studies: dict[str, list[Series]] = defaultdict(list)
    for series in found:
        studies[series.study or str(series.folder)].append(series)
    choice = Choice()
    taken: set[Series] = set()
    for study in studies.values():
        chosen, left, why = _of_study(study, sequence)
        taken |= chosen
        if len(study) > 1:
            choice.notes += [
                f"{s.place}: {f'taken, {why[s]}' if s in chosen else f'left out, {left[s]}'}" for s in study
            ]
        guessed = [series.place for series in study if why.get(series) == UNTOLD and sequence != "any"]
        if guessed:
            choice.warnings.append(
                f"no header tells of a sagittal {_name(sequence)} series; taken: {', '.join(guessed)}"
            )
        if not chosen and any(series.modality not in NO_SCANS for series in study):
            there = "; ".join(f"{series.place} is {left[series]}" for series in study)
            advice = (
                "ask for another contrast (--sequence, in prepare --series), or give the series that you mean alone"
            )
            choice.warnings.append(f"there is no sagittal {_name(sequence)} series: {there}; {advice}")
    choice.taken = [series for series in found if series in taken]
    return choice


def _of_study(study: Sequence[Series], sequence: str) -> tuple[set[Series], dict[Series, str], dict[Series, str]]:
    """Selected series of one study, reasons of the others, and reasons of the selected ones."""
    left = _never_taken(study)
    scans = [series for series in study if series not in left]
    if len(scans) == 1 and not any(series.localiser for series in left):
        return set(scans), left, {scans[0]: "the only scan of its study"}
    why: dict[Series, str] = {}
    for series in scans:
        contrast = UNTOLD if series.sequence == "unknown" else f"sagittal {_name(series.sequence)} {series.evidence}"
        if series.plane == "unreadable":
            why[series] = "its header is damaged"
        elif series.modality not in ("MR", ""):
            left[series] = f"of modality {series.modality}"
        elif series.plane != "sagittal":
            left[series] = f"of {series.plane} plane"
        elif sequence in ("any", series.sequence):
            why[series] = contrast
        else:
            left[series] = contrast
    if not any(series.plane == "sagittal" for series in why):
        for series in [series for series in scans if left.get(series) == UNTOLD]:
            why[series] = left.pop(series)
    return set(why), left, why


def _never_taken(study: Sequence[Series]) -> dict[Series, str]:
    """Series that are never selected, with the reason."""
    left: dict[Series, str] = {}
    same: dict[str, list[Series]] = defaultdict(list)
    for series in study:
        same[series.uid or str(series.folder)].append(series)
    for series in study:
        first, *others = same[series.uid or str(series.folder)]
        if series.modality in NO_SCANS:
            left[series] = f"no scan ({series.modality})"
        elif series.localiser:
            left[series] = "a localiser"
        elif any(other.first_instance != first.first_instance for other in others):
            # each part would be read as a volume of its own, with gaps
            left[series] = "a part of a series whose files lie in several folders; put them into one"
        elif series is not first:
            left[series] = f"a copy of {first.place}"
    return left


def _name(sequence: str) -> str:
    """Name of a contrast in messages."""
    return "MR" if sequence == "any" else sequence.upper() if sequence in SEQUENCES else sequence
