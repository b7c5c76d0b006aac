from __future__ import annotations

from scripts.tools.results.row_names import GROUPS, METHODS, MethodName, in_order, method_name


class TestMethodName:
    def test_known(self):
        assert method_name("mean_teacher").title == "Mean Teacher (hard CE)"

    def test_groups_exist(self):
        assert {name.group for name in METHODS.values()} <= set(GROUPS)

    def test_strangers(self, tmp_path):
        (tmp_path / "hard_targets.yaml").touch()
        assert method_name("hard_targets", ablations=tmp_path) == MethodName("hard targets", "Ablations")
        assert method_name("other_one", uses_prompts=True) == MethodName("other one", "Text-guided")
        assert method_name("other_one").group == "Semi-supervised"

    def test_with_the_weights_of_the_original(self):
        assert method_name("mc_net_original") == MethodName("MC-Net+ by its original's weights", "Semi-supervised")
        names = {m: method_name(m) for m in ("ucmt", "mc_net_original", "ss_net", "mc_net")}
        assert in_order(names) == ["mc_net", "mc_net_original", "ss_net", "ucmt"]

    def test_of_the_overlays(self):
        assert method_name("live_maps").group == "Ablations"


class TestInOrder:
    def test_value(self):
        names = {
            m: method_name(m)
            for m in ("nnunet", "full", "zzz", "cps4", "cps4_literal", "bcp", "supervised", "mean_teacher")
        }
        assert in_order(names) == ["supervised", "mean_teacher", "bcp", "zzz", "cps4_literal", "cps4", "full", "nnunet"]
