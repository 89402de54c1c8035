"""Neural art: its terms against einsum and closed forms, its problems, what it refuses."""

import numpy as np
import pytest
import torch
from PIL import Image

from l2l_exp.optimizees.art import NeuralArt, gram, roughness
from l2l_exp.optimizees.contents import centre
from l2l_exp.optimizees.features import RandomFeatures
from l2l_exp.optimizees.pictures import bundled
from l2l_exp.optimizees.seeding import SPLITS, Seed
from l2l_exp.optimizees.vgg import VGG
from l2l_exp.unroll import differentiate

TEST, PROBLEMS = Seed("test", 0), (0, 4)


def numbers(*shape):
    """Random float64, the same at every call."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def theta_of(pixels):
    """The theta that shows these pixels (B, 3, size, size)."""
    return ((pixels.double() - 0.5) / 16).flatten(1)


# ------------------------------------------------------------------ terms


def test_a_gram_matrix_is_the_mean_product_of_channels():
    maps = numbers(4, 5, 6)
    expected = torch.einsum("chw,dhw->cd", maps, maps) / 30
    torch.testing.assert_close(gram(maps), expected, rtol=1e-12, atol=1e-12)


def test_a_gram_matrix_does_not_know_where_things_are():
    maps = numbers(4, 5, 6)
    moved = maps.flatten(1)[:, torch.randperm(30, generator=torch.Generator().manual_seed(1))]
    torch.testing.assert_close(gram(moved.view(4, 6, 5)), gram(maps), rtol=1e-12, atol=1e-12)


def test_roughness_of_a_slope_is_the_square_of_its_steps():
    rows, columns = torch.meshgrid(torch.arange(5.0), torch.arange(7.0), indexing="ij")
    slope = (2 * rows + 3 * columns).expand(3, 5, 7)
    assert roughness(slope).item() == 4 + 9
    assert roughness(torch.full((3, 5, 7), 0.3)).item() == 0


def test_roughness_is_the_mean_over_all_neighbours():
    picture = numbers(3, 4, 6)
    pairs = [
        [(picture[c, y + 1, x] - picture[c, y, x]) ** 2
         for c in range(3) for y in range(3) for x in range(6)],
        [(picture[c, y, x + 1] - picture[c, y, x]) ** 2
         for c in range(3) for y in range(4) for x in range(5)],
    ]  # fmt: skip
    expected = sum(torch.stack(one).mean() for one in pairs)
    torch.testing.assert_close(roughness(picture), expected, rtol=1e-12, atol=0)


def test_the_loss_is_the_weighted_sum_of_terms_by_hand(art):
    weights = {"alpha": 0.7, "beta": 2.0, "gamma": 0.3}
    optimizee = art(size=12, **weights)
    problem, theta = optimizee.sample(PROBLEMS, TEST), optimizee.init(PROBLEMS, TEST)
    crops, network = optimizee.references(problem)["content"], optimizee.features
    training = [
        network(centre(picture.double() / 255, 12)[None])
        for picture in optimizee.contents["train"][:8]
    ]
    wanted = network(centre(bundled("retina"), 12).double()[None])
    got = optimizee.metrics(theta, problem)
    for k in range(len(PROBLEMS)):
        picture = 64 * theta[k].view(3, 12, 12)  # in units of .25
        maps, content = network((0.5 + 0.25 * picture)[None]), network(crops[k][None])
        square = torch.stack([(m["conv2_1"] ** 2).mean() for m in training]).mean()
        content_loss = ((maps["conv2_1"] - content["conv2_1"]) ** 2).mean() / square
        style_loss = torch.zeros(())
        for layer in ("conv1_1", "conv2_1"):
            grams = [
                torch.einsum("nchw,ndhw->cd", m[layer], m[layer]) / m[layer][0, 0].numel()
                for m in (maps, wanted, *training)
            ]
            size = torch.stack([(g**2).sum() for g in grams[2:]]).mean()
            style_loss = style_loss + ((grams[0] - grams[1]) ** 2).sum() / size / 2
        expected = {
            "content_loss": content_loss,
            "style_loss": style_loss,
            "roughness": roughness(picture),
            "train_loss": 0.7 * content_loss + 2 * style_loss + 0.3 * roughness(picture),
        }
        for name, value in expected.items():
            # scales and the style are taken in single precision
            torch.testing.assert_close(got[name][k].double(), value.double(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("weight", ["alpha", "beta", "gamma"])
def test_each_weight_alone_leaves_its_term(art, weight):
    optimizee = art(**{"alpha": 0.0, "beta": 0.0, "gamma": 0.0, weight: 2.0})
    problem, theta = optimizee.sample(PROBLEMS, TEST), optimizee.init(PROBLEMS, TEST)
    loss, _ = differentiate(optimizee, theta, optimizee.minibatch(problem, 0))
    terms = optimizee.metrics(theta, problem)
    name = {"alpha": "content_loss", "beta": "style_loss", "gamma": "roughness"}[weight]
    torch.testing.assert_close(loss, 2 * terms[name], rtol=1e-12, atol=0)


def test_the_content_itself_has_no_content_loss_and_the_style_no_style_loss(art):
    optimizee = art(size=16, gamma=0.0)
    problem = optimizee.sample(PROBLEMS, TEST)
    pictures = optimizee.references(problem)
    content = optimizee.metrics(theta_of(pictures["content"]), problem)
    assert content["content_loss"].max() < 1e-12 and content["style_loss"].min() > 1e-3
    style = optimizee.metrics(theta_of(pictures["style"]), problem)
    assert style["style_loss"].max() < 1e-10 and style["content_loss"].min() > 1e-3


def test_where_content_and_style_are_the_same_flat_picture_the_loss_is_zero(tmp_path):
    Image.fromarray(np.full((20, 20, 3), 200, dtype=np.uint8)).save(tmp_path / "flat.png")
    flat = {split: [torch.full((3, 20, 20), 200, dtype=torch.uint8)] for split in SPLITS}
    features = RandomFeatures((3, 4), (1, 1), ["conv2_1"], ["conv1_1", "conv2_1"])
    optimizee = NeuralArt(flat, features, str(tmp_path / "flat.png"), 8, start="content").double()
    problem, theta = optimizee.sample(PROBLEMS, TEST), optimizee.init(PROBLEMS, TEST)
    loss, grad = differentiate(optimizee, theta, problem.data)
    assert loss.abs().max() < 1e-10 and grad.abs().max() < 1e-4  # single precision
    assert optimizee.metrics(theta + 0.01 * numbers(2, 192), problem)["train_loss"].min() > 1e-3


@pytest.mark.parametrize("style", ["retina", "brick", "hubble_deep_field"])
@pytest.mark.parametrize("size", [32, 64])
def test_every_term_is_of_the_order_of_one_at_the_start(art, style, size):
    optimizee = art(size=size, style=style, alpha=1.0, beta=1.0, gamma=1.0)
    problem, theta = optimizee.sample(PROBLEMS, TEST), optimizee.init(PROBLEMS, TEST)
    terms = optimizee.metrics(theta, problem)
    for name in ("content_loss", "style_loss", "roughness"):
        assert terms[name].min() > 0.05 and terms[name].max() < 10, name


# ------------------------------------------------------------------ problems


def test_a_problem_starts_from_noise_of_its_size_or_from_its_content(art):
    noise = art(noise_std=0.4, spread=0.2, size=32).init(range(4), TEST)
    assert noise.std().item() == pytest.approx(2, rel=0.02) and abs(noise.mean().item()) < 0.05
    optimizee = art(start="content")
    start = optimizee.pictures(optimizee.init(PROBLEMS, TEST))
    pictures = optimizee.references(optimizee.sample(PROBLEMS, TEST))["content"]
    torch.testing.assert_close(start, pictures, rtol=0, atol=1e-7)


@pytest.mark.parametrize("start", ["noise", "content"])
def test_the_same_problem_shows_the_same_crop_at_both_resolutions(art, start):
    optimizees = [art(size=size, start=start) for size in (16, 64)]
    small, large = (o.references(o.sample(range(6), TEST))["content"] for o in optimizees)
    again = torch.nn.functional.avg_pool2d(large, 4)
    assert (again - small).abs().mean() < 0.02
    assert (again - small.flip(0)).abs().mean() > 0.1


def test_splits_see_different_pictures(art):
    optimizee = art(size=16)
    crops = [
        optimizee.references(optimizee.sample(range(12), Seed(split, 0)))["content"]
        for split in SPLITS
    ]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert torch.cdist(crops[one].flatten(1), crops[other].flatten(1)).min() > 0.5


def test_pictures_lie_between_black_and_white_and_move_with_theta(art):
    optimizee = art()
    theta = torch.tensor([-9.0, -1.0, 0.0, 2.0, 9.0]).double().div(64).view(5, 1).expand(5, 192)
    pictures = optimizee.pictures(theta)
    assert pictures.shape == (5, 3, 8, 8)
    assert pictures[:, 0, 0, 0].tolist() == [0.0, 0.25, 0.5, 1.0, 1.0]


def test_a_style_is_a_bundled_picture_or_a_file(art, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "mine.png")
    style = art(style=str(tmp_path / "mine.png"), size=9).style
    torch.testing.assert_close(style.permute(1, 2, 0), torch.from_numpy(pixels) / 255.0,
                               check_dtype=False)  # fmt: skip
    assert not torch.equal(art(style="brick").style, art(style="grass").style)


@pytest.mark.parametrize("network", ["vgg16", "vgg19"])
def test_vgg_of_random_weights_makes_a_problem_whose_loss_falls(network, photographs_):
    vgg = VGG(network, "random", ["conv2_2"], ["conv1_1", "conv2_1"])
    optimizee = NeuralArt(photographs_, vgg, "retina", size=16)
    problem, theta = optimizee.sample(PROBLEMS, TEST), optimizee.init(PROBLEMS, TEST)
    loss, grad = differentiate(optimizee, theta, problem.data)
    after, _ = differentiate(optimizee, theta - 0.05 * grad / grad.norm(dim=1, keepdim=True),
                             problem.data)  # fmt: skip
    assert (after < loss).all() and (loss < 30).all()


@pytest.mark.parametrize("network", ["vgg16", "vgg19"])
def test_vgg_goes_through_the_whole_path_at_its_own_layers(network, photographs_):
    optimizee = NeuralArt(photographs_, VGG(network, "random"), "retina", size=32)
    assert optimizee.features.smallest == 16
    problem, theta = optimizee.sample((0,), TEST), optimizee.init((0,), TEST)
    loss, grad = differentiate(optimizee, theta, problem.data)
    assert problem.data["conv4_2"].shape == (1, 512, 4, 4)
    assert 0.1 < loss.item() < 100 and grad.isfinite().all() and grad.norm() > 0


# ------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"size": 1}, r"size=1 must be >= 2 pixels"),
        ({"alpha": -1.0}, r"alpha=-1.0, beta=6.0, gamma=0.3 must be >= 0"),
        ({"alpha": 0, "beta": 0, "gamma": 0}, "and one of them > 0"),
        ({"start": "grey"}, "start='grey' must be one of noise, content"),
        ({"noise_std": 0.0}, "noise_std=0.0 must be > 0"),
        ({"spread": -1.0}, "spread=-1.0 must be > 0"),
        ({"smallest_crop": 1.5}, r"smallest_crop=1.5 must be in \(0, 1\]"),
        ({"batching": "both"}, "batching='both' must be one of vmap, loop"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(art, wrong, told):
    with pytest.raises(ValueError, match=told):
        art(**wrong)


def test_a_picture_too_small_for_the_poolings_is_refused(photographs_):
    with pytest.raises(ValueError, match="size=3 must be >= 4 pixels"):
        NeuralArt(photographs_, RandomFeatures(), "retina", size=3)


def test_a_style_that_is_nothing_is_refused_with_the_names_there_are(art, tmp_path):
    with pytest.raises(FileNotFoundError, match="style='van_gogh' must be a picture file, or one"):
        art(style="van_gogh")
    (tmp_path / "broken.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"broken\.png cannot be read as a picture"):
        art(style=str(tmp_path / "broken.png"))


def test_contents_that_the_features_do_not_see_are_refused():
    grey = {split: [torch.full((3, 20, 20), 255, dtype=torch.uint8)] for split in SPLITS}
    features = RandomFeatures((2,), (1,), ["conv1_1"], ["conv1_1"])
    features.conv1_1_weight.fill_(-1.0)
    with pytest.raises(ValueError, match="layer conv1_1 of the features sees nothing"):
        NeuralArt(grey, features, "retina", size=8)
