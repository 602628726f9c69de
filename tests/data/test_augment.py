"""Crops and flips of a batch against a loop over its pixels."""

import pytest
import torch

from ferkit.data.augment import gaussian_noise, normalize_images, random_crop_flip, random_erasing


def test_every_output_is_a_shifted_maybe_mirrored_input():
    images = torch.arange(5 * 2 * 6 * 7).reshape(5, 2, 6, 7)
    before = images.clone()
    seen = set()
    for seed in range(40):
        made = random_crop_flip(images, torch.Generator().manual_seed(seed), padding=1)
        for image, result in zip(images, made):
            matches = []
            for dy in (-1, 0, 1):
                for dx in (-1, 0, 1):
                    rows = [min(max(y + dy, 0), 5) for y in range(6)]
                    columns = [min(max(x + dx, 0), 6) for x in range(7)]
                    crop = image[:, rows][:, :, columns]
                    matches += [
                        (dy, dx, flip) for flip in (0, 1) if torch.equal(result, crop.flip(2) if flip else crop)
                    ]
            assert len(matches) == 1
            seen.add(matches[0])
    assert len(seen) == 18 and torch.equal(images, before)


def test_same_generator_same_images():
    images = torch.rand(4, 3, 8, 8)
    one, two = (random_crop_flip(images, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one, two)
    state = torch.get_rng_state()
    random_crop_flip(images, torch.Generator())
    assert torch.equal(state, torch.get_rng_state())


def test_nothing_to_do():
    images = torch.rand(4, 3, 8, 8)
    assert torch.equal(random_crop_flip(images, torch.Generator(), padding=0, flip=0.0), images)
    assert random_crop_flip(images[:0], torch.Generator()).shape == (0, 3, 8, 8)


def test_normalize():
    images = torch.tensor([0, 255], dtype=torch.uint8).reshape(2, 1, 1, 1)
    assert normalize_images(images).flatten().tolist() == [-1.0, 1.0]
    with pytest.raises(TypeError, match=r"images: expected dtype torch\.uint8"):
        normalize_images(images.float())


@pytest.mark.parametrize(("options", "message"), [({"padding": -1}, "padding"), ({"flip": 2.0}, "flip")])
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        random_crop_flip(torch.zeros(1, 3, 4, 4), torch.Generator(), **options)


def test_noise_is_normal_and_on_a_share_of_the_images():
    images = torch.full((800, 3, 8, 8), 120, dtype=torch.uint8)
    before = images.clone()
    made = gaussian_noise(images, torch.Generator().manual_seed(0))
    noisy = (made != images).flatten(1).any(1)
    assert abs(int(noisy.sum()) - 200) < 62  # five deviations of a share of 0.25
    values = made[noisy].double() + 0.5 - 120  # cut to integers: half a grey level lost on average
    count = values.numel()
    assert abs(float(values.mean())) < 5 * (30 / count) ** 0.5 + 0.01
    assert float(values.var()) == pytest.approx(30 + 1 / 12, rel=5 * (2 / count) ** 0.5)
    assert torch.equal(images, before) and made.dtype == torch.uint8


def test_noise_is_clipped():
    black, white = (torch.full((4, 1, 8, 8), level, dtype=torch.uint8) for level in (0, 255))
    assert gaussian_noise(black, torch.Generator(), probability=1.0).max() < 40
    assert gaussian_noise(white, torch.Generator(), probability=1.0).min() > 215


def test_erased_is_one_rectangle_of_the_asked_size():
    images = torch.rand(500, 2, 24, 30) + 1
    before = images.clone()
    made = random_erasing(images, torch.Generator().manual_seed(0), value=-3.0)
    erased = (made == -3).all(1)
    assert torch.equal((made == -3).any(1), erased) and torch.equal(
        made[~erased[:, None].expand_as(made)], images[~erased[:, None].expand_as(made)]
    )
    touched = erased.flatten(1).any(1)
    assert abs(int(touched.sum()) - 250) < 56  # five deviations of a share of 0.5
    corners = set()
    for mask in erased[touched]:
        rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
        tall, wide = len(rows), len(columns)
        assert int(mask.sum()) == tall * wide and int(rows[-1] - rows[0]) == tall - 1
        assert int(columns[-1] - columns[0]) == wide - 1 and tall < 24 and wide < 30
        # sides are rounded to whole pixels
        assert (tall + 0.5) * (wide + 0.5) >= 0.02 * 720 and (tall - 0.5) * (wide - 0.5) <= 0.25 * 720
        assert (tall + 0.5) / (wide - 0.5) >= 0.3 and (tall - 0.5) / (wide + 0.5) <= 3.3
        corners |= {("top", int(rows[0]) == 0), ("bottom", int(rows[-1]) == 23), ("left", int(columns[0]) == 0)}
    assert {("top", True), ("bottom", True), ("left", True), ("top", False)} <= corners
    assert torch.equal(images, before)


def test_noise_and_erasing_follow_their_generator_alone():
    images = torch.randint(0, 256, (6, 3, 8, 8), dtype=torch.uint8)
    state = torch.get_rng_state()
    for function in (gaussian_noise, random_erasing):
        one, two, other = (function(images, torch.Generator().manual_seed(s), probability=1.0) for s in (3, 3, 4))
        assert torch.equal(one, two) and not torch.equal(one, other)
        assert torch.equal(function(images, torch.Generator(), probability=0.0), images)
        assert function(images[:0], torch.Generator()).shape == (0, 3, 8, 8)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    ("function", "options", "message"),
    [
        (gaussian_noise, {"variance": -1}, "variance"),
        (gaussian_noise, {"probability": 1.5}, "probability"),
        (random_erasing, {"probability": -0.5}, "probability"),
        (random_erasing, {"area": (0.3, 0.2)}, "area: expected a value in"),
        (random_erasing, {"aspect": (0.0, 2.0)}, "aspect: expected a value in"),
    ],
)
def test_bad_options_of_noise_and_erasing(function, options, message):
    with pytest.raises(ValueError, match=message):
        function(torch.zeros(1, 3, 4, 4, dtype=torch.uint8), torch.Generator(), **options)


def test_noise_takes_bytes():
    with pytest.raises(TypeError, match=r"images: expected dtype torch\.uint8, got torch\.float32"):
        gaussian_noise(torch.zeros(1, 3, 4, 4), torch.Generator())
