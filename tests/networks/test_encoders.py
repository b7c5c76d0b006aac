import json

import pytest
import torch
from transformers import BertConfig, BertModel

from scripts.networks.encoders import (
    TransformerLayer,
    UNetTransformerEncoder,
    ViTEncoder,
    build_vision_encoder,
    resize_to_multiple,
    sincos_position,
)
from scripts.networks.resunet import ResUNet2d

VIT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
}
TRUNK = {"channels": (4, 8, 16), "width": 32, "layers": 1, "heads": 2}


class TestResizeToMultiple:
    @pytest.mark.parametrize(
        ("size", "scale", "expected"), [((32, 16), 1.0, (32, 16)), ((33, 5), 1.0, (32, 8)), ((32, 16), 2.0, (64, 32))]
    )
    def test_shape(self, size, scale, expected):
        assert resize_to_multiple(torch.zeros(1, 1, *size), 8, scale).shape[2:] == expected

    def test_exception(self):
        with pytest.raises(ValueError, match=r"image must be \(B, 1, H, W\), got \(2, 3, 8, 8\)"):
            resize_to_multiple(torch.zeros(2, 3, 8, 8), 8)


class TestViTEncoder:
    @pytest.mark.parametrize(
        ("size", "scale", "grid"), [((32, 32), 1.0, (4, 4)), ((64, 32), 1.0, (8, 4)), ((33, 18), 2.0, (8, 4))]
    )
    def test_shape(self, size, scale, grid):
        encoder = ViTEncoder(config=VIT, input_scale=scale).eval()
        assert encoder(torch.randn(2, 1, *size)).shape == (2, encoder.embed_dim, *grid)

    @pytest.mark.parametrize(("scale", "stride"), [(1.0, 8), (2.0, 4), (3.0, 3), (20.0, 1)])
    def test_output_stride(self, scale, stride):
        assert ViTEncoder(config=VIT, input_scale=scale).output_stride == stride

    def test_patches_lie_where_the_image_has_them(self):
        encoder = ViTEncoder(config=VIT).eval()
        image = torch.zeros(1, 1, 64, 32)
        changed = image.clone()
        changed[:, :, 40:48, 8:16] = 3.0
        difference = (encoder(changed) - encoder(image)).square().sum(1)[0]
        assert divmod(difference.argmax().item(), difference.shape[1]) == (5, 1)

    def test_whole_image_is_the_cls_token(self):
        encoder, seen = ViTEncoder(config=VIT).eval(), []
        encoder.vit.register_forward_hook(lambda _, inputs, output: seen.append(output.last_hidden_state))
        patches, whole = encoder.encode(torch.randn(2, 1, 32, 16))
        assert torch.equal(whole, seen[0][:, 0])
        assert torch.equal(patches.flatten(2).transpose(1, 2), seen[0][:, 1:])

    def test_large_values_stay_in_the_range_of_photographs(self):
        encoder, seen = ViTEncoder(config=VIT), []
        encoder.vit.embeddings.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        encoder(torch.linspace(-3, 8, 1024).view(1, 1, 32, 32))
        assert seen[0].shape[1] == 3
        assert seen[0].abs().max() <= 1
        assert (seen[0][0, 0].flatten().diff() > 0).all()

    def test_spec(self):
        encoder = ViTEncoder(config=VIT, input_scale=2.0).eval()
        twin = build_vision_encoder(json.loads(json.dumps(encoder.spec()))).eval()
        twin.load_state_dict(encoder.state_dict())
        image = torch.randn(1, 1, 32, 16)
        torch.testing.assert_close(twin(image), encoder(image))

    def test_folder_of_a_half_precision_model(self, tmp_path):
        encoder = ViTEncoder(config=VIT)
        encoder.vit.half().save_pretrained(tmp_path)
        loaded = ViTEncoder(pretrained=str(tmp_path)).eval()
        torch.testing.assert_close(loaded.state_dict(), encoder.float().state_dict())
        assert build_vision_encoder(loaded.spec())(torch.randn(1, 1, 32, 16)).dtype == torch.float32

    def test_exception(self, tmp_path):
        with pytest.raises(RuntimeError, match=r"vision encoder '.*nowhere' cannot be loaded.*set `config` to train"):
            ViTEncoder(pretrained=str(tmp_path / "nowhere"))
        with pytest.raises(ValueError, match="needs `pretrained` or `config`"):
            ViTEncoder(pretrained=None)
        config = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
        BertModel(config).save_pretrained(tmp_path)
        with pytest.raises(RuntimeError, match="it is no complete ViTModel"):
            ViTEncoder(pretrained=str(tmp_path))


class TestUNetTransformerEncoder:
    @pytest.mark.parametrize(("stride", "dim"), [(4, 32), (2, 8), (1, 4)])
    @pytest.mark.parametrize(("size", "rounded"), [((32, 16), (32, 16)), ((33, 18), (32, 16))])
    def test_shape(self, stride, dim, size, rounded):
        encoder = UNetTransformerEncoder(**TRUNK, output_stride=stride)
        patches = encoder(torch.randn(2, 1, *size))
        assert patches.shape == (2, dim, rounded[0] // stride, rounded[1] // stride)
        assert encoder.embed_dim == dim

    def test_every_weight_gets_a_gradient(self):
        encoder = UNetTransformerEncoder(**TRUNK, output_stride=2)
        encoder(torch.randn(2, 1, 32, 16)).square().sum().backward()
        assert [n for n, p in encoder.named_parameters() if p.grad is None] == []

    def test_position_reaches_the_result(self):
        encoder = UNetTransformerEncoder(**TRUNK).eval()
        patches = encoder(torch.zeros(1, 1, 64, 64))
        # zero padding changes the border's patches; the centre's differ by position alone
        assert (patches[..., 5, 8] - patches[..., 10, 8]).abs().max() > 1e-3

    def test_spec(self):
        encoder = UNetTransformerEncoder(**TRUNK, output_stride=2, norm="group").eval()
        twin = build_vision_encoder(json.loads(json.dumps(encoder.spec()))).eval()
        twin.load_state_dict(encoder.state_dict())
        image = torch.randn(1, 1, 32, 16)
        torch.testing.assert_close(twin(image), encoder(image))

    def test_whole_image_is_the_mean_of_its_patches(self):
        encoder, image = UNetTransformerEncoder(**TRUNK).eval(), torch.randn(2, 1, 32, 16)
        patches, whole = encoder.encode(image)
        assert torch.equal(patches, encoder(image))
        torch.testing.assert_close(whole, patches.flatten(2).mean(2))

    def test_trunk_weights(self, tmp_path):
        network = ResUNet2d(out_channels=3, channels=(4, 8, 16, 32))
        torch.save(network.state_dict(), tmp_path / "model.pt")
        encoder = UNetTransformerEncoder(**TRUNK, trunk_weights=tmp_path / "model.pt").eval()
        image = torch.randn(1, 1, 32, 16)
        torch.testing.assert_close(encoder.trunk(image), network.eval().encode(image)[:3])
        with pytest.raises(ValueError, match=r"trunk_weights .* do not fit channels \[8, 8, 16\]"):
            UNetTransformerEncoder(channels=(8, 8, 16), trunk_weights=tmp_path / "model.pt")

    def test_exception(self):
        with pytest.raises(ValueError, match=r"output_stride must be one of \[1, 2, 4\] for 3 levels, got 8"):
            UNetTransformerEncoder(**TRUNK, output_stride=8)
        with pytest.raises(ValueError, match="width must be a multiple of 4 and of heads = 3, got 32"):
            UNetTransformerEncoder(**{**TRUNK, "heads": 3})


class TestBuildVisionEncoder:
    def test_exception(self):
        with pytest.raises(ValueError, match=r"vision encoder must be one of vit, unet_transformer, got 'resnet'"):
            build_vision_encoder({"kind": "resnet", "options": {}})


class TestSincosPosition:
    def test_value(self):
        position = sincos_position(3, 4, 8, torch.device("cpu")).unflatten(1, (3, 4))[0]  # (h, w, D)
        rates = torch.tensor([1.0, 1e-4])
        expected = torch.cat([(2 * rates).sin(), (2 * rates).cos(), (3 * rates).sin(), (3 * rates).cos()])
        torch.testing.assert_close(position[2, 3], expected)

    def test_a_larger_grid_continues_a_smaller_one(self):
        small = sincos_position(3, 4, 8, torch.device("cpu")).unflatten(1, (3, 4))
        large = sincos_position(5, 6, 8, torch.device("cpu")).unflatten(1, (5, 6))
        torch.testing.assert_close(large[:, :3, :4], small)


class TestTransformerLayer:
    def test_twin(self):
        layer = TransformerLayer(16, 2)
        twin = torch.nn.TransformerEncoderLayer(16, 2, 64, 0.0, "gelu", batch_first=True, norm_first=True)
        names = {
            "self_attn.in_proj_": "query_key_value.",
            "self_attn.out_proj.": "attention_out.",
            "linear1.": "mlp.1.",
            "linear2.": "mlp.3.",
            "norm1.": "attention_norm.",
            "norm2.": "mlp.0.",
        }
        state = {
            theirs + end: layer.state_dict()[ours + end] for theirs, ours in names.items() for end in ("weight", "bias")
        }
        twin.load_state_dict(state)
        tokens = torch.randn(2, 7, 16)
        torch.testing.assert_close(layer(tokens), twin(tokens))

    @pytest.mark.parametrize(("dropout", "differs"), [(0.0, False), (0.5, True)])
    def test_dropout(self, dropout, differs):
        layer, tokens = TransformerLayer(16, 2, dropout), torch.randn(1, 5, 16)
        assert torch.equal(layer(tokens), layer(tokens)) is not differs
        layer.eval()
        assert torch.equal(layer(tokens), layer(tokens))
