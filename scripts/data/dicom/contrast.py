"""Contrast (T1, T2, STIR, ...) of an MR DICOM series from its header: TE, TR, TI and words of its names.

Names are free text that may identify a patient; only matches of the patterns below are returned.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

NAMES = {"0008|103e": "description", "0018|1030": "protocol", "0018|0024": "sequence name"}
"""Tags whose text may name the contrast -> their names in messages."""
TIMES = {"TE": "0018|0081", "TR": "0018|0080", "TI": "0018|0082"}
OTHERS = ("0018|0020", "0018|0022")
"""Scanning sequence and scan options."""
TAGS = (*NAMES, *TIMES.values(), *OTHERS)
"""Every tag that :func:`sequence_of` reads."""
_LEVELS = re.compile(r"\b[ctls]\d{1,2} ?(?:-|/|to) ?[ctls]\d{1,2}\b")
"""A range of vertebrae such as "T2-T12", which looks like a contrast."""
_FAT = r"stir|tirm|spair|spir|fat ?sat|fat ?sup|(?<![a-z])(?:water|fs)(?![a-z])"
_WORDS = {
    "diffusion": r"(?<![a-z])(?:dwi|diff|diffusion|adc|dti|ivim|trace)(?![a-z])",
    "MR myelography": r"myelo",
    "T2*": r"t2 ?(?:\*|star)|(?<![a-z])(?:medic|merge)(?![a-z])",
    "FLAIR": r"flair",
    "T1": r"t1(?!\d|rho)",
    "T2": r"t2(?!\d|\*| ?star)",
    "PD": r"(?<![a-z])pd(?![a-z])|proton",
}
"""Contrast -> words for it; the first four have precedence, T1, T2 and PD must not occur together."""
_RULING = ("diffusion", "MR myelography", "T2*", "FLAIR")
STIR_MS = (80.0, 350.0)
"""Inversion times that suppress fat, at any field strength."""
FLAIR_MS = 1500.0
"""Inversion times from which fluid is suppressed."""


def sequence_of(header: Mapping[str, str]) -> tuple[str, str]:
    """Contrast of a series and the evidence for it.

    TE, TR and TI decide if they are unambiguous, else the words of the names. Fat suppression follows from the names,
    the inversion time and the scan options.

    Args:
        header: tag ("0018|0081") -> text; of `TAGS`, missing ones may be left out.

    Returns:
        "t2", "t1", "stir" (T2 with fat suppressed, by inversion or saturation), another name ("PD", "T2*", ...), or
        "unknown"; and the evidence as the end of a sentence, without any free text of the header ("" if unknown).
    """
    times, shown = _by_times(header)
    words, quoted = _by_words(header)
    fat = _fat_suppressed(header)
    contrast = words if words in _RULING else times or words
    if not contrast:
        # inversion is used for T2 alone, saturation for any contrast
        return ("stir", f"by its {fat}") if re.search("stir|tirm|inversion", fat) else ("unknown", "")
    if contrast == words == times:
        evidence = f"by its {shown} and its {quoted}"
    elif contrast == words:
        evidence = f"by its {quoted}"
    else:
        evidence = f"by its {shown}" + (f", against its {quoted}" if words else "")
    if not fat:
        return {"T1": "t1", "T2": "t2"}.get(contrast, contrast), evidence
    fat = f"{evidence}, fat suppressed by its {fat}"
    return ("stir", fat) if contrast == "T2" else (f"{contrast} with fat suppressed", fat)


def _by_times(header: Mapping[str, str]) -> tuple[str, str]:
    """Contrast by TE, TR and TI, "" if missing or ambiguous, and these times as text."""
    values = {name: _number(header.get(tag, "")) for name, tag in TIMES.items()}
    te, tr, ti = values.values()
    scanning = header.get("0018|0020", "").upper().split("\\")
    shown = "times (" + ", ".join(f"{name} {value:.4g} ms" for name, value in values.items() if value) + ")"
    if "EP" in scanning:
        return "echo-planar", f"{shown} and scanning sequence"
    if "GR" in scanning and "SE" not in scanning:
        return "gradient echo", f"{shown} and scanning sequence"
    if not te or not tr:
        return "", shown
    if ti > FLAIR_MS and te >= 60:
        return "FLAIR", shown
    if te >= 60 and tr >= 1000:
        return "T2", shown
    # short echoes: T1 also with an inversion pulse (T1 FLAIR); a short inversion time is STIR, whatever its echo
    if STIR_MS[0] <= ti <= STIR_MS[1] and tr >= 1500:
        return "T2", shown
    if te <= 40 and (tr <= 1200 or 500 <= ti <= FLAIR_MS):
        return "T1", shown
    return ("PD", shown) if te <= 50 and tr >= 1500 else ("", shown)


def _by_words(header: Mapping[str, str]) -> tuple[str, str]:
    """Contrast by the names, "" if none or several, and the matched word with its tag."""
    for tag, called in NAMES.items():
        text = _plain(header.get(tag, ""))
        found = {name: match[0] for name, words in _WORDS.items() if (match := re.search(words, text))}
        if "T1" in found:
            found.pop("FLAIR", None)  # T1 FLAIR is T1 with an inversion pulse
        ruling = [name for name in _RULING if name in found]
        if ruling or len(found) == 1:
            name = (ruling or list(found))[0]
            return name, f'{called} ("{found[name]}")'
    return "", ""


def _fat_suppressed(header: Mapping[str, str]) -> str:
    """Evidence of fat suppression; "" if there is none."""
    for tag, called in NAMES.items():
        if match := re.search(_FAT, _plain(header.get(tag, ""))):
            return f'{called} ("{match[0]}")'
    if STIR_MS[0] <= (ti := _number(header.get(TIMES["TI"], ""))) <= STIR_MS[1]:
        return f"inversion time ({ti:.4g} ms)"
    options = header.get("0018|0022", "").upper().split("\\")
    return "scan options (FS)" if "FS" in (option.strip() for option in options) else ""


def _plain(text: str) -> str:
    """Lower case words of letters, digits and *, without ranges of vertebrae."""
    text = _LEVELS.sub(" ", text.lower().replace("_", " "))
    return " ".join(re.findall(r"[a-z0-9*]+", text))


def _number(text: str) -> float:
    """The first number of a text, 0 if there is none."""
    try:
        return float(text.split("\\")[0])
    except ValueError:
        return 0.0
