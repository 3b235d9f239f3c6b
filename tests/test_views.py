"""The batched augmentation against torchvision, op by op and in distribution."""

import pytest
import torch
import torchvision.transforms as T
import torchvision.transforms.functional as TF

from mlssl.config import Views
from mlssl.data import views as V

N = 12


@pytest.fixture
def images():
    return torch.randint(0, 256, (N, 3, 50, 70), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def p():
    return V.draw(torch.tensor([[50, 70]]).expand(N, 2), Views(), torch.Generator().manual_seed(1))


@pytest.mark.parametrize("size", [16, 64, 224])
def test_resized_crop_is_torchvisions_with_antialias(images, p, size):
    ours = V.resized_crop(images, p.box, size)
    for i, (x, y, w, h) in enumerate(p.box.tolist()):
        theirs = TF.resized_crop(images[i].float() / 255, y, x, h, w, [size, size], antialias=True)
        torch.testing.assert_close(ours[i], theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue"])
def test_colours_are_torchvisions(images, p, name):
    x, factor = images.float() / 255, getattr(p, name)
    x[0] = 0.5  # no hue, no saturation
    ours = getattr(V, f"adjust_{name}")(x, factor)
    for i in range(N):
        theirs = getattr(TF, f"adjust_{name}")(x[i], float(factor[i]))
        torch.testing.assert_close(ours[i], theirs, atol=5e-6, rtol=0)


def test_jitter_applies_the_four_in_each_samples_own_order(images, p):
    x = V.resized_crop(images, p.box, 32)
    ours = V.color_jitter(x.clone(), p)
    names = ("brightness", "contrast", "saturation", "hue")
    assert len({tuple(o) for o in p.order.tolist()}) > 3
    for i in range(N):
        theirs = x[i]
        for operation in p.order[i].tolist() if p.jitter[i] else ():
            name = names[operation]
            theirs = getattr(TF, f"adjust_{name}")(theirs, float(getattr(p, name)[i]))
        torch.testing.assert_close(ours[i], theirs, atol=2e-5, rtol=0)


@pytest.mark.parametrize("size", [8, 32])
def test_blur_is_torchvisions(p, size):
    x = torch.rand(N, 3, size, size, generator=torch.Generator().manual_seed(3))
    taps = 2 * min(V.BLUR_TAPS // 2, size - 1) + 1
    ours = V.gaussian_blur(x, p.sigma)
    for i in range(N):
        torch.testing.assert_close(ours[i], TF.gaussian_blur(x[i], taps, float(p.sigma[i])), atol=1e-5, rtol=0)


def test_a_view_is_the_ops_in_moco_v2s_order(images, p):
    ours = V.apply(images, p, 32)
    for i in range(N):
        x = V.color_jitter(V.resized_crop(images, p.box, 32), p)[i]
        x = TF.rgb_to_grayscale(x, 3) if p.gray[i] else x
        x = TF.gaussian_blur(x, 23, float(p.sigma[i])) if p.blur[i] else x
        x = TF.hflip(x) if p.flip[i] else x
        torch.testing.assert_close(ours[i], TF.normalize(x, V.MEAN, V.STD), atol=1e-4, rtol=0)
    assert p.gray.any()
    assert p.blur.any()
    assert p.flip.any()


@pytest.mark.parametrize(("height", "width"), [(50, 70), (20, 100), (90, 30)])
def test_crop_boxes_have_the_distribution_of_random_resized_crop(height, width):
    n = 4000
    scale, ratio = (0.2, 1.0), (3 / 4, 4 / 3)
    sizes = torch.tensor([[height, width]]).expand(n, 2)
    ours = V.crop_boxes(sizes, scale, ratio, torch.Generator().manual_seed(0)).double()
    torch.manual_seed(0)
    image = torch.empty(3, height, width)
    draws = [T.RandomResizedCrop.get_params(image, list(scale), list(ratio)) for _ in range(n)]
    theirs = torch.tensor([(x, y, w, h) for y, x, h, w in draws]).double()
    for stat in (lambda b: b, lambda b: b[:, 2] * b[:, 3], lambda b: b[:, 2] / b[:, 3]):
        a, b = stat(ours), stat(theirs)
        tolerance = 4 * b.std(dim=0) * (2 / n) ** 0.5 + 1e-9
        assert ((a.mean(dim=0) - b.mean(dim=0)).abs() <= tolerance).all()
        assert ((a.std(dim=0) - b.std(dim=0)).abs() <= 0.1 * b.std(dim=0) + 1e-9).all()
    assert (ours[:, 0] + ours[:, 2] <= width).all()
    assert (ours[:, 1] + ours[:, 3] <= height).all()
    assert (ours >= 0).all()


def test_padding_is_never_seen():
    """A small image in a padded batch gives the same view as on its own."""
    small = torch.randint(0, 256, (1, 3, 20, 30), dtype=torch.uint8)
    padded = torch.nn.functional.pad(small, (0, 40, 0, 25), value=255)
    p = V.draw(torch.tensor([[20, 30]]), Views(), torch.Generator().manual_seed(5))
    torch.testing.assert_close(V.apply(padded, p, 24), V.apply(small, p, 24))


def test_probabilities_and_ranges():
    p = V.draw(torch.full((4000, 2), 64), Views(), torch.Generator().manual_seed(0))
    for flag, expected in ((p.jitter, 0.8), (p.gray, 0.2), (p.blur, 0.5), (p.flip, 0.5)):
        assert flag.float().mean().item() == pytest.approx(expected, abs=0.03)
    for value, low, high in (
        (p.brightness, 0.6, 1.4),
        (p.contrast, 0.6, 1.4),
        (p.saturation, 0.6, 1.4),
        (p.hue, -0.1, 0.1),
        (p.sigma, 0.1, 2.0),
    ):
        assert low <= value.min() < low + 0.05 * (high - low)
        assert high - 0.05 * (high - low) < value.max() <= high


def test_a_view_says_where_it_came_from(images):
    sizes, index = torch.tensor([[50, 70]]).expand(N, 2), torch.arange(N) + 5
    first, again, other = (
        V.make_view(images, sizes, index, Views(crop=32), torch.Generator().manual_seed(s)) for s in (1, 1, 2)
    )
    for a, b in zip(first, again, strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(first.box, other.box)
    assert first.pixels.shape == (N, 3, 32, 32)
    assert first.image.tolist() == index.tolist()
