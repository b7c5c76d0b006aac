from itertools import pairwise

import pytest
import torch

from scripts.networks.resunet import ResidualDecoder, ResidualEncoder, ResUNet2d, UpStage, normalisation, reinitialise
from scripts.ops.batch_norm import batch_norm_statistics

SMALL = {"out_channels": 5, "channels": (8, 16, 32)}


def num_weights(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


class TestBatchStatisticsNorm2d:
    def test_twin(self):
        # the mode that `batch_norm_statistics` switches on, as a network of its own; same weights, same names
        reference, written_out = ResUNet2d(**SMALL, norm="batch"), ResUNet2d(**SMALL, norm="batch_statistics")
        for layer in reference.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                torch.nn.init.uniform_(layer.weight, 0.5, 2.0)
                torch.nn.init.uniform_(layer.bias, -1.0, 1.0)
        written_out.load_state_dict(reference.state_dict())
        image = 3 + 2 * torch.randn(3, 1, 32, 16)
        with torch.no_grad(), batch_norm_statistics(reference.eval(), "volume"):
            torch.testing.assert_close(written_out.eval()(image), reference(image))
            torch.testing.assert_close(torch.jit.script(written_out)(image), reference(image))


class TestResUNet2d:
    def test_weights_of_the_published_network(self):
        # 11.8 M: 3x3 convolutions without bias (each block 3, each step up 1 more, transposed, with bias), batch norms
        # of two weights a channel after each convolution of a block, the head
        w = (1, 32, 64, 128, 256, 512)
        blocks = sum(9 * (a * b + 2 * b * b) + 6 * b for a, b in pairwise(w))
        steps_up = sum(9 * (b * a + 3 * a * a) + 6 * a + a for a, b in pairwise(w[1:]))
        assert num_weights(ResUNet2d()) == blocks + steps_up + (32 * 20 + 20) == 11_779_092

    @pytest.mark.parametrize("size", [(64, 64), (48, 24), (33, 17), (1, 1)])
    def test_shape(self, size):
        network = ResUNet2d(**SMALL).eval()
        logits = network(torch.randn(2, 1, *size))
        assert logits.shape == (2, 5, *size)
        assert logits.isfinite().all()

    def test_padding_does_not_move_the_image(self):
        network = ResUNet2d(**SMALL).eval()
        image = torch.randn(1, 1, 64, 64)
        image[:, :, 61:] = image[:, :, 60:61]
        torch.testing.assert_close(network(image[:, :, :61]), network(image)[:, :, :61])

    def test_features(self):
        network = ResUNet2d(**SMALL).eval()
        image = torch.randn(1, 1, 33, 32)
        assert [f.shape[1:] for f in network.encode(image)] == [(8, 36, 32), (16, 18, 16), (32, 9, 8)]
        decoded = network.features(image)
        assert [f.shape[1:] for f in decoded] == [(32, 9, 8), (16, 18, 16), (8, 36, 32)]
        torch.testing.assert_close(network.head(decoded[-1])[:, :, :33], network(image))

    def test_twin_of_a_block(self):
        network = ResUNet2d(in_channels=3, out_channels=2, channels=(4,)).eval()
        block, image = network.encoder.stages[0], torch.randn(1, 3, 8, 8)
        conv, norm, _ = block.entry
        first = norm(conv(image)).relu()
        conv1, norm1, _, conv2, norm2 = block.residual
        expected = (norm2(conv2(norm1(conv1(first)).relu())) + first).relu()
        torch.testing.assert_close(network(image), network.head(expected))

    @pytest.mark.parametrize("norm", ["batch", "group", "instance"])
    @pytest.mark.parametrize("size", [(64, 64), (33, 17)])
    def test_scripts(self, norm, size):
        network = ResUNet2d(**SMALL, norm=norm, dropout=0.2).eval()
        scripted, image = torch.jit.script(network), torch.randn(1, 1, *size)
        torch.testing.assert_close(scripted(image), network(image))

    def test_dropout_layers_can_be_turned_on(self):
        image = torch.randn(1, 1, 32, 32)
        for dropout, differs in ((0.0, False), (0.5, True)):
            network = ResUNet2d(**SMALL, dropout=dropout).eval()
            torch.testing.assert_close(network(image), network(image))
            layers = [m for m in network.modules() if isinstance(m, torch.nn.Dropout2d)]
            assert len(layers) == 2
            for layer in layers:
                layer.train()
            assert torch.equal(network(image), network(image)) is not differs

    def test_channels_last(self):
        network, image = ResUNet2d(**SMALL).eval(), torch.randn(2, 1, 32, 16)
        expected = network(image)
        network = network.to(memory_format=torch.channels_last)
        logits = network(image.to(memory_format=torch.channels_last))
        assert logits.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-4)

    def test_autocast(self):
        network = ResUNet2d(**SMALL)
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(torch.randn(2, 1, 33, 17))
        logits.float().sum().backward()
        assert all(p.grad.isfinite().all() for p in network.parameters())

    def test_overfits(self):
        network, image = ResUNet2d(**SMALL), torch.randn(2, 1, 32, 32)
        label = (image[:, 0] > 0).long() + 1
        optimiser = torch.optim.Adam(network.parameters(), 1e-2)
        losses = []
        for _ in range(25):
            loss = torch.nn.functional.cross_entropy(network(image), label)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
        assert losses[-1] < 0.5 * losses[0]


class TestResidualDecoder:
    @pytest.mark.parametrize("upsampling", ["transposed", "bilinear", "nearest"])
    def test_further_decoders_fit_the_encoder(self, upsampling):
        features = ResidualEncoder(1, (4, 8, 16))(torch.randn(2, 1, 16, 24))
        decoded = ResidualDecoder((4, 8, 16), upsampling=upsampling)(features)
        assert [f.shape[1:] for f in decoded] == [(16, 4, 6), (8, 8, 12), (4, 16, 24)]

    def test_exception(self):
        with pytest.raises(ValueError, match="upsampling must be 'transposed', 'bilinear' or 'nearest', got 'deconv'"):
            UpStage(8, 4, upsampling="deconv")


class TestNormalisation:
    def test_exception(self):
        with pytest.raises(
            ValueError, match="norm must be 'batch', 'batch_statistics', 'group' or 'instance', got 'layer'"
        ):
            normalisation("layer", 8)

    def test_groups_divide_the_channels(self):
        assert [normalisation("group", c).num_groups for c in (32, 12, 3)] == [8, 4, 1]


class TestRedraw:
    def test_only_these_parts(self):
        network, same = ResUNet2d(**SMALL), ResUNet2d(**SMALL)
        network(torch.randn(2, 1, 16, 16))
        same.load_state_dict(network.state_dict())
        reinitialise([network.decoder, network.head], seed=1)
        assert all(
            torch.equal(a, b) for a, b in zip(network.encoder.parameters(), same.encoder.parameters(), strict=True)
        )
        assert not torch.equal(network.head.weight, same.head.weight)
        assert network.decoder.stages[0].block.entry[1].running_mean.abs().max() == 0

    def test_seed_decides_and_the_random_state_stays(self):
        network = ResUNet2d(**SMALL)
        state = torch.get_rng_state()
        reinitialise([network.head], seed=1)
        first = network.head.weight.clone()
        reinitialise([network.head], seed=1)
        assert torch.equal(network.head.weight, first)
        assert torch.equal(torch.get_rng_state(), state)
