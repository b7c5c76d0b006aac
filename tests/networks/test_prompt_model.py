import json
import os
from pathlib import Path

import pytest
import torch

from scripts.networks.encoders import UNetTransformerEncoder, ViTEncoder
from scripts.networks.prompt_model import freeze_prompt_model, load_prompt_model, save_prompt_model
from scripts.networks.text_encoder import BertTextEncoder, ClassVectors
from scripts.networks.vision_language import VisionLanguageModel

NAMES = ["background", "S", "L5"]
PROMPTS = [f"A magnetic resonance image of {name}" for name in NAMES]
TRUNK = {"channels": (4, 8), "width": 16, "layers": 1, "heads": 2, "output_stride": 1}
SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
ENCODERS = {
    "vit": lambda: ViTEncoder(config={**SMALL, "image_size": 16, "patch_size": 4}, input_scale=2.0),
    "unet_transformer": lambda: UNetTransformerEncoder(**TRUNK),
}


@pytest.fixture(params=ENCODERS)
def model(request) -> VisionLanguageModel:
    text = BertTextEncoder(PROMPTS, config=SMALL)
    model = VisionLanguageModel(ENCODERS[request.param](), text, embed_dim=24, activation="sigmoid")
    model(3 * torch.randn(2, 1, 16, 8) + 1)  # running averages that are not the initial ones
    return model


@pytest.fixture
def trunk_model() -> VisionLanguageModel:
    return VisionLanguageModel(ENCODERS["unet_transformer"](), ClassVectors(PROMPTS, 8), embed_dim=24)


class TestSaveAndLoad:
    def test_maps_are_the_same(self, model, tmp_path):
        model.scale.data.fill_(7.0)
        save_prompt_model(model, tmp_path / "prompt", NAMES, [0, 1, 2])
        assert model.training
        loaded, image = load_prompt_model(tmp_path / "prompt", NAMES), torch.randn(2, 1, 16, 8)
        with torch.no_grad():
            torch.testing.assert_close(loaded(image), model.eval()(image), atol=1e-6, rtol=0)

    def test_which_classes_compete_is_kept(self, model, tmp_path):
        model.competing = [0, 2]
        save_prompt_model(model, tmp_path, NAMES, [0, 2])
        loaded, image = load_prompt_model(tmp_path, NAMES), torch.randn(2, 1, 16, 8)
        with torch.no_grad():
            torch.testing.assert_close(loaded(image), model.eval()(image), atol=1e-6, rtol=0)
        assert (loaded(image)[:, 1] == 0).all()
        description = json.loads((tmp_path / "model.json").read_text())
        del description["competing"]  # as an earlier version wrote it
        (tmp_path / "model.json").write_text(json.dumps(description))
        assert load_prompt_model(tmp_path, NAMES).competing is None

    def test_needs_no_text_encoder(self, model, tmp_path, monkeypatch):
        save_prompt_model(model, tmp_path, NAMES, [0, 1, 2])
        monkeypatch.setattr(BertTextEncoder, "__init__", None)
        monkeypatch.setattr("scripts.networks.encoders.load_pretrained", None)
        loaded = load_prompt_model(tmp_path)
        assert not any("text" in name for name in loaded.state_dict())

    def test_description(self, model, tmp_path):
        save_prompt_model(model, tmp_path, NAMES, (2, 0), {"step": 7})
        info = json.loads((tmp_path / "model.json").read_text())
        expected = {
            "class_names": NAMES,
            "prompts": PROMPTS,
            "trained_classes": [0, 2],
            "activation": "sigmoid",
            "similarity": "cosine",
            "embed_dim": 24,
            "maps_reflect_wording": False,
            "text": {"kind": "bert", "pretrained": None, "lower_case": True},
            "step": 7,
        }
        assert {key: info[key] for key in expected} == expected
        loaded = load_prompt_model(tmp_path)
        assert loaded.class_names == tuple(NAMES)
        assert loaded.trained_classes == (0, 2)

    def test_files(self, model, tmp_path):
        save_prompt_model(model, tmp_path, NAMES, [0])
        assert sorted(f.name for f in tmp_path.iterdir()) == ["model.json", "model.pt", "vocab.txt"]
        state = torch.load(tmp_path / "model.pt", weights_only=True)
        assert all(isinstance(tensor, torch.Tensor) for tensor in state.values())
        assert (tmp_path / "vocab.txt").read_text().split() == model.text.vocabulary

    def test_interrupted_writing_leaves_the_old_checkpoint(self, trunk_model, tmp_path, monkeypatch):
        save_prompt_model(trunk_model, tmp_path, NAMES, [0])
        old = (tmp_path / "model.pt").read_bytes()

        def interrupted(state, file):
            file.write(b"half")
            raise KeyboardInterrupt

        monkeypatch.setattr(torch, "save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            save_prompt_model(trunk_model, tmp_path, NAMES, [0])
        assert (tmp_path / "model.pt").read_bytes() == old
        assert sorted(f.name for f in tmp_path.iterdir()) == ["model.json", "model.pt"]

    def test_exception(self, trunk_model, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"no stage-1 checkpoint in .* \(model.pt is missing\): train"):
            load_prompt_model(tmp_path)
        with pytest.raises(ValueError, match="2 class names for 3 class prompts"):
            save_prompt_model(trunk_model, tmp_path, NAMES[:2], [0])
        save_prompt_model(trunk_model, tmp_path, NAMES, [0])
        with pytest.raises(
            ValueError, match=r"names other classes \(background, S, L5\) than asked for \(background, S"
        ):
            load_prompt_model(tmp_path, ["background", "S", "L4"])
        with pytest.raises(ValueError, match="statistics must be one of running, volume, got 'batch'"):
            load_prompt_model(tmp_path, statistics="batch")

    def test_pair_of_a_killed_writer(self, trunk_model, tmp_path, monkeypatch):
        save_prompt_model(trunk_model, tmp_path, NAMES, [0])
        replace = os.replace

        def dies(source, target):
            replace(source, target)
            if Path(target).name == "model.pt":
                raise KeyboardInterrupt

        monkeypatch.setattr(os, "replace", dies)
        with pytest.raises(KeyboardInterrupt):
            save_prompt_model(trunk_model, tmp_path, NAMES, [0, 2])
        assert load_prompt_model(tmp_path).trained_classes == (0, 2)  # the settings that go with the new weights

    @pytest.mark.parametrize("damage", ["cut", "other"])
    def test_damaged_file(self, trunk_model, tmp_path, damage):
        file = save_prompt_model(trunk_model, tmp_path, NAMES, [0])
        if damage == "cut":
            file.write_bytes(file.read_bytes()[:1000])
        else:
            torch.save({"other": torch.zeros(1)}, file)
        with pytest.raises(ValueError, match=r"model.pt does not fit its model.json"):
            load_prompt_model(tmp_path)


class TestPromptModel:
    def test_stays_frozen(self, trunk_model):
        frozen, image = freeze_prompt_model(trunk_model, NAMES, [0, 1, 2]), torch.randn(2, 1, 16, 8)
        expected = frozen(image)
        holder = torch.nn.ModuleList([frozen]).train()
        torch.testing.assert_close(holder[0](image), expected)
        assert not frozen(image).requires_grad
        trunk_model.image_projection.weight.data.zero_()
        torch.testing.assert_close(frozen(image), expected)

    def test_maps_of_classes_that_were_never_labelled(self, model):
        image, every = torch.randn(2, 1, 16, 8), freeze_prompt_model(model, NAMES, [0, 1, 2])
        frozen = freeze_prompt_model(model, NAMES, [0, 2])
        assert (frozen(image)[:, 1] == 0).all()
        assert (every(image)[:, 1] > 0).all()
        torch.testing.assert_close(frozen(image)[:, [0, 2]], every(image)[:, [0, 2]])

    def test_statistics_of_the_volume(self, trunk_model):
        frozen = freeze_prompt_model(trunk_model, NAMES, [0, 1, 2], statistics="volume").train()
        image, before = torch.randn(2, 1, 16, 8), {k: v.clone() for k, v in frozen.state_dict().items()}
        maps = frozen(image)
        torch.testing.assert_close(
            frozen(5 * image), maps, atol=1e-3, rtol=0
        )  # the first batch norm takes the factor out
        torch.testing.assert_close(maps, trunk_model.train()(image).detach())
        torch.testing.assert_close(frozen.state_dict(), before)
