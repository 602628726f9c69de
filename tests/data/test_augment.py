"""Crops and flips of a batch against a loop over its pixels."""

import pytest
import torch

from ferkit.data.augment import normalize_images, random_crop_flip


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
