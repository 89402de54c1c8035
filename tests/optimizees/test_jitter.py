"""The jitter of drawn images."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from l2l_exp.optimizees.jitter import Jitter


def random_images(count=3):
    """Images whose pixels all differ."""
    return torch.from_numpy(np.random.default_rng(0).random((count, 2, 8, 8)))


def test_zero_draws_leave_images_as_they_are():
    pixels = random_images()
    torch.testing.assert_close(Jitter()(pixels, torch.zeros(3, 5).double()), pixels)


def test_a_jitter_without_range_leaves_images_as_they_are():
    pixels = random_images()
    draws = torch.from_numpy(np.random.default_rng(1).uniform(-1, 1, (3, 5)))
    torch.testing.assert_close(Jitter(0.0, 0.0, 0.0)(pixels, draws), pixels)


@pytest.mark.parametrize("dx", [-2, 0, 1])
@pytest.mark.parametrize("dy", [-1, 0, 2])
def test_a_shift_moves_images_by_whole_pixels_and_fills_with_zeros(dx, dy):
    pixels = random_images()
    draws = torch.tensor([[0.0, 0.0, 0.0, dx / 2, dy / 2]] * 3).double()
    warped = Jitter(0.0, 0.0, shift=2.0)(pixels, draws)
    expected = torch.zeros(3, 2, 12, 12).double()
    expected[..., 2:10, 2:10] = pixels
    expected = expected[..., 2 + dy : 10 + dy, 2 + dx : 10 + dx]
    torch.testing.assert_close(warped, expected)


def test_a_quarter_turn_is_rot90():
    pixels = random_images()
    draws = torch.tensor([[1.0, 0, 0, 0, 0]] * 3).double()
    warped = Jitter(rotation=math.pi / 2, scale=0.0, shift=0.0)(pixels, draws)
    turns = [torch.rot90(pixels, k, (2, 3)) for k in (1, 3)]
    assert any(torch.allclose(warped, turn) for turn in turns)


@pytest.mark.parametrize(
    "settings", [{"rotation": -0.1}, {"shift": -1.0}, {"scale": 1.0}, {"scale": -0.1}]
)
def test_jitter_ranges_are_checked_by_name(settings):
    ((name, value),) = settings.items()
    with pytest.raises(ValueError, match=f"{name}={value}"):
        Jitter(**settings)


def test_values_that_are_no_choice_are_refused_by_name():
    with pytest.raises(ValueError, match="padding='mirror' must be one of zeros, reflection"):
        Jitter(padding="mirror")
    with pytest.raises(ValueError, match="flip='no' must be true or false"):
        Jitter(flip="no")


def uniform_draws(count, columns):
    """Draws as a minibatch makes them."""
    return torch.from_numpy(np.random.default_rng(2).uniform(-1, 1, (count, columns)))


def test_without_flip_and_with_zeros_outside_it_is_the_plain_affine_map_bit_for_bit():
    pixels, draws = random_images(), uniform_draws(3, 5)
    angle, stretch = 0.3 * draws[:, 0], 1 + 0.15 * draws[:, 1:3]
    rows = [angle.cos(), -angle.sin(), angle.sin(), angle.cos()]
    matrix = torch.stack(rows, -1).view(-1, 2, 2) * stretch.unsqueeze(-2)
    affine = torch.cat([matrix, (draws[:, 3:5] * (2 / 8)).unsqueeze(-1)], -1)
    grid = F.affine_grid(affine, [3, 2, 8, 8], align_corners=False)
    assert torch.equal(Jitter()(pixels, draws), F.grid_sample(pixels, grid, align_corners=False))
    assert Jitter().draws == 5


def test_flip_mirrors_where_its_draw_is_positive():
    pixels = random_images(4)
    draws = torch.zeros(4, 6).double()
    draws[:, 5] = torch.tensor([0.7, -0.7, 1e-9, -1.0])
    warped = Jitter(flip=True)(pixels, draws)
    assert Jitter(flip=True).draws == 6
    torch.testing.assert_close(warped[[0, 2]], pixels[[0, 2]].flip(-1))
    torch.testing.assert_close(warped[[1, 3]], pixels[[1, 3]])


def test_a_flipped_image_is_the_mirrored_image_warped():
    pixels, draws = random_images(50), uniform_draws(50, 6)
    mirrored = torch.where(draws[:, 5].view(-1, 1, 1, 1) > 0, pixels.flip(-1), pixels)
    expected = Jitter(padding="reflection")(mirrored, draws[:, :5])
    warped = Jitter(flip=True, padding="reflection")(pixels, draws)
    torch.testing.assert_close(warped, expected)
    assert 10 < int((draws[:, 5] > 0).sum()) < 40


@pytest.mark.parametrize("dx", [-2, 0, 1])
@pytest.mark.parametrize("dy", [-1, 0, 2])
def test_reflection_fills_a_shift_with_the_image_itself(dx, dy):
    pixels = random_images()
    draws = torch.tensor([[0.0, 0.0, 0.0, dx / 2, dy / 2]] * 3).double()
    warped = Jitter(0.0, 0.0, shift=2.0, padding="reflection")(pixels, draws)
    padded = np.pad(pixels.numpy(), ((0, 0), (0, 0), (2, 2), (2, 2)), mode="symmetric")
    expected = padded[..., 2 + dy : 10 + dy, 2 + dx : 10 + dx]
    torch.testing.assert_close(warped, torch.from_numpy(expected))


@pytest.mark.parametrize("flip", [False, True])
def test_reflection_keeps_a_flat_image_flat_and_values_in_their_range(flip):
    jitter = Jitter(0.5, 0.3, 3.0, flip=flip, padding="reflection")
    draws = uniform_draws(200, jitter.draws)
    flat = torch.full((200, 1, 8, 8), 0.3).double()
    torch.testing.assert_close(jitter(flat, draws), flat)
    warped = jitter(random_images(200), draws)
    assert warped.min() >= 0 and warped.max() <= 1
