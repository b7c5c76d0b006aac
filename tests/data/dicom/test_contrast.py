import pytest

from scripts.data.dicom.contrast import TAGS, sequence_of


def header(name="", te="", tr="", ti="", scanning="SE", options="", **more):
    values = {"0008|103e": name, "0018|0081": te, "0018|0080": tr, "0018|0082": ti, "0018|0020": scanning}
    return {**values, "0018|0022": options, **more}


class TestSequenceOf:
    @pytest.mark.parametrize(
        ("given", "wanted"),
        [
            ({"te": "100", "tr": "3500"}, "t2"),
            ({"te": "250", "tr": "1500"}, "t2"),  # SPACE
            ({"te": "9.2", "tr": "550"}, "t1"),
            ({"te": "24", "tr": "2200", "ti": "780", "scanning": "SE\\IR"}, "t1"),  # T1 FLAIR
            ({"te": "30", "tr": "2500"}, "PD"),
            ({"te": "50", "tr": "4000", "ti": "160", "scanning": "SE\\IR"}, "stir"),
            ({"te": "100", "tr": "3500", "options": "PFP\\FS"}, "stir"),
            ({"te": "100", "tr": "3500", "options": "PFP\\SAT1"}, "t2"),
            ({"te": "110", "tr": "9000", "ti": "2500", "scanning": "SE\\IR"}, "FLAIR"),
            ({"te": "90", "tr": "4000", "scanning": "EP"}, "echo-planar"),
            ({"te": "20", "tr": "500", "scanning": "GR"}, "gradient echo"),
            ({"te": "9", "tr": "550", "options": "FS"}, "T1 with fat suppressed"),
            ({"te": "0", "tr": "0"}, "unknown"),
            ({"te": "long", "tr": "?"}, "unknown"),
            ({}, "unknown"),
        ],
    )
    def test_times(self, given, wanted):
        assert sequence_of(header(**given))[0] == wanted

    @pytest.mark.parametrize(
        ("name", "wanted"),
        [
            ("SAG T2", "t2"),
            ("t2_tse_sag_384", "t2"),
            ("T2W_TSE", "t2"),
            ("sagT2 FRFSE", "t2"),
            ("Sag T1 L-Spine", "t1"),
            ("T1 FLAIR sag", "t1"),
            ("t2_tirm_sag", "stir"),
            ("STIR", "stir"),
            ("sag t2 fs", "stir"),
            ("T2FS", "stir"),
            ("t2 fatsat", "stir"),
            ("t1_fs_km", "T1 with fat suppressed"),
            ("sag PD", "PD"),
            ("t2*_me2d", "T2*"),
            ("T2 star", "T2*"),
            ("T2 medical centre", "t2"),
            ("ep2d_diff_trace", "diffusion"),
            ("t2 myelo", "MR myelography"),
            ("t2_flair", "FLAIR"),
            ("SAG T2-T12", "unknown"),
            ("SAG T1 T4/T12", "t1"),
            ("T1 and T2", "unknown"),
            ("T12 fracture", "unknown"),
            ("Wirbelsäule", "unknown"),
        ],
    )
    def test_words(self, name, wanted):
        assert sequence_of(header(name))[0] == wanted

    def test_evidence(self):
        both = 'by its times (TE 100 ms, TR 3500 ms) and its description ("t2")'
        assert sequence_of(header("Sag T2", "100", "3500")) == ("t2", both)
        against = 'by its times (TE 100 ms, TR 3500 ms), against its description ("t1")'
        assert sequence_of(header("Sag T1", "100", "3500")) == ("t2", against)
        assert sequence_of({"0018|1030": "sag t2"}) == ("t2", 'by its protocol ("t2")')
        assert sequence_of(header("", "100", "3500")) == ("t2", "by its times (TE 100 ms, TR 3500 ms)")

    @pytest.mark.parametrize("tag", TAGS)
    def test_no_free_text(self, tag):
        for text in ("Jane Doe t2", "Jane Doe", "Jane Doe STIR", "t2 fat sat Doe", "t2 fatsuppressedDoe", "t2Doe"):
            assert "doe" not in " ".join(sequence_of(header("", "100", "3500", **{tag: text}))).lower()
            assert "doe" not in " ".join(sequence_of({tag: text})).lower()
