"""Feature networks: a chain of convolutions by hand is the oracle."""

import pytest
import torch
import torch.nn.functional as F

from l2l_exp.optimizees.features import Convolution, Features, RandomFeatures

PICTURES = torch.rand(2, 3, 16, 12, generator=torch.Generator().manual_seed(0)).double()


def by_hand(features: RandomFeatures, pictures, pool):
    """Every layer's maps, from the convolutions alone."""
    x, maps = (pictures - 0.5) / 0.25, {}
    for place, layer in enumerate(features.layers):
        x = pool(x, 2) if place else x
        weight = features.get_buffer(f"{layer}_weight")
        x = F.conv2d(x, weight, padding=weight.shape[-1] // 2).clamp(min=0)
        maps[layer] = x
    return maps


@pytest.mark.parametrize(("pooling", "pool"), [("average", F.avg_pool2d), ("max", F.max_pool2d)])
def test_maps_are_the_chain_of_convolutions(pooling, pool):
    features = RandomFeatures((4, 5, 6), (5, 3, 1), pooling=pooling).double()
    maps, expected = features(PICTURES), by_hand(features, PICTURES, pool)
    assert maps.keys() == {"conv1_1", "conv2_1", "conv3_1"}
    for layer, values in maps.items():
        torch.testing.assert_close(values, expected[layer], rtol=1e-12, atol=0)
    assert maps["conv3_1"].shape == (2, 6, 4, 3)


def test_biases_are_added_before_the_relu():
    weight, bias = torch.zeros(2, 3, 1, 1), torch.tensor([0.5, -0.5])
    one = ["conv1_1"]
    features = Features(
        one, lambda layer: Convolution(weight, bias), (0.0,) * 3, (1.0,) * 3, one, one, "max"
    ).double()
    maps = features(PICTURES)["conv1_1"]
    assert torch.equal(maps, torch.tensor([0.5, 0.0]).double().view(1, 2, 1, 1).expand_as(maps))


def test_only_what_is_wanted_is_kept():
    features = RandomFeatures((4, 5, 6), (3, 3, 3), content=["conv1_1"], style=["conv2_1"])
    assert features.layers == ("conv1_1", "conv2_1") and features.smallest == 2
    assert features(PICTURES.float()).keys() == {"conv1_1", "conv2_1"}
    assert RandomFeatures((4, 5, 6), (3, 3, 3), content=["conv1_1"]).smallest == 4


def test_the_smallest_picture_passes_and_half_of_it_does_not():
    features = RandomFeatures((4, 5, 6), (3, 3, 3))
    assert features(torch.rand(1, 3, 4, 4))["conv3_1"].shape == (1, 6, 1, 1)
    with pytest.raises(RuntimeError):
        features(torch.rand(1, 3, 2, 2))


def test_random_maps_of_pictures_of_usual_contrast_have_unit_scale():
    rng = torch.Generator().manual_seed(1)
    pictures = 0.5 + 0.25 * torch.randn(4, 3, 32, 32, generator=rng)
    maps = RandomFeatures((200, 200), (5, 3), ["conv1_1"], ["conv2_1"])(pictures)
    assert maps["conv1_1"].square().mean() == pytest.approx(1, abs=0.15)
    assert 0.3 < maps["conv2_1"].square().mean() < 1  # averages of noise are smaller


def test_filters_depend_on_their_seed_alone_and_nothing_is_trainable():
    state = torch.get_rng_state()
    one, again, other = (RandomFeatures(seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one.conv2_1_weight, again.conv2_1_weight)
    assert not torch.equal(one.conv2_1_weight, other.conv2_1_weight)
    assert not list(one.parameters())


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"content": ["conv4_1"]}, "content layer='conv4_1' must be one of conv1_1, conv2_1"),
        ({"style": ["relu"]}, "style layer='relu' must be one of conv1_1"),
        ({"style": []}, r"style=\[\] must be a list of layers of conv1_1"),
        ({"content": "conv1_1"}, "content='conv1_1' must be a list of layers"),
        ({"pooling": "median"}, "pooling='median' must be one of average, max"),
        ({"kernel_sizes": [3, 3, 4]}, r"kernel_sizes=\[3, 3, 4\] must be odd"),
        ({"kernel_sizes": [3]}, r"kernel_sizes=\[3\] must be odd, one for each of channels"),
        ({"channels": [4, 0, 4]}, "channels=0 must be > 0"),
    ],
)
def test_what_cannot_be_is_refused_by_name(wrong, told):
    with pytest.raises(ValueError, match=told):
        RandomFeatures(**wrong)
