import pytest
import torch

from scripts.networks.transformer import TransformerLayer, sincos_position


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
