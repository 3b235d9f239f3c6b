"""The augmentation, on a CPU and of a batch at once, against torchvision: op by op and in distribution."""

from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torchvision.transforms as T
import torchvision.transforms.functional as TF
import torchvision.transforms.v2.functional as TF2

from mlssl.data.augment import cpu, gpu, operations
from mlssl.data.augment.parameters import MEAN, STD, crop_boxes, draw
from mlssl.data.augment.views import make_views
from mlssl.data.loader import Ahead
from mlssl.study.settings import Views

N = 12


@pytest.fixture
def images():
    return torch.randint(0, 256, (N, 3, 50, 70), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def p():
    return draw(torch.tensor([[50, 70]]).expand(N, 2), Views(), torch.Generator().manual_seed(1))


@pytest.mark.parametrize("size", [16, 64, 224])
def test_resized_crop_is_torchvisions_with_antialias(images, p, size):
    ours = gpu.resized_crop(images, p.box, size)
    for i, (x, y, w, h) in enumerate(p.box.tolist()):
        theirs = TF.resized_crop(images[i].float() / 255, y, x, h, w, [size, size], antialias=True)
        torch.testing.assert_close(ours[i], theirs, atol=1e-5, rtol=0)


def test_one_crop_on_a_cpu_is_torchvisions_of_bytes(images, p):
    for image, box in zip(images, p.box.tolist(), strict=True):
        ours = cpu.crop_resized(image.permute(1, 2, 0), box, 32)
        x, y, w, h = box
        theirs = TF2.resized_crop(image, y, x, h, w, [32, 32], antialias=True)
        assert torch.equal(ours[0], theirs)


NAMES = ("brightness", "contrast", "saturation", "hue")


@pytest.mark.parametrize("name", NAMES)
def test_colours_are_torchvisions(images, p, name):
    x, factor = images.float() / 255, p.factors[:, NAMES.index(name)]
    x[0] = 0.5  # no hue, no saturation
    x[1, 1] = x[1, 0]  # two channels equal
    adjust = getattr(operations, f"adjust_{name}")
    ours, before = adjust(x, operations.per_sample(factor)), x.clone()
    for i in range(N):
        theirs = getattr(TF, f"adjust_{name}")(x[i], float(factor[i]))
        torch.testing.assert_close(ours[i], theirs, atol=5e-6, rtol=0)
        torch.testing.assert_close(adjust(x[i : i + 1], float(factor[i]))[0], theirs, atol=5e-6, rtol=0)
    assert torch.equal(x, before)


@pytest.mark.parametrize("shift", [-0.5, -0.2, 0.0, 0.3, 0.5])
def test_any_turn_of_the_hue_is_torchvisions(images, shift):
    x = images[:1].float() / 255
    torch.testing.assert_close(operations.adjust_hue(x, shift), TF.adjust_hue(x, shift), atol=5e-6, rtol=0)


def recoloured(x, p, i):
    """Torchvision's colour jitter and grayscale of one sample, with the parameters drawn for it."""
    for operation in p.order[i].tolist() if p.jitter[i] else ():
        x = getattr(TF, f"adjust_{NAMES[operation]}")(x, float(p.factors[i, operation]))
    return TF.rgb_to_grayscale(x, 3) if p.gray[i] else x


def test_jitter_applies_the_four_in_each_samples_own_order(images, p):
    x = gpu.resized_crop(images, p.box, 32)
    ours = gpu.recolour(x, p.jitter, p.order, p.factors, p.gray)
    assert len({tuple(o) for o in p.order.tolist()}) > 3
    for i in range(N):
        torch.testing.assert_close(ours[i], recoloured(x[i], p, i), atol=2e-5, rtol=0)


@pytest.mark.parametrize("size", [8, 32])
def test_blur_is_torchvisions(p, size):
    x = torch.rand(N, 3, size, size, generator=torch.Generator().manual_seed(3))
    taps = 2 * min(operations.BLUR_TAPS // 2, size - 1) + 1
    ours = operations.gaussian_blur(x, p.sigma)
    for i in range(N):
        torch.testing.assert_close(ours[i], TF.gaussian_blur(x[i], taps, float(p.sigma[i])), atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [8, 32, 70])
def test_blur_of_one_is_torchvisions(p, size):
    x = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(3))
    taps = 2 * min(operations.BLUR_TAPS // 2, size - 1) + 1
    for sigma in (0.1, *p.sigma.tolist(), 2.0):
        ours, theirs = cpu.blur_one(x, sigma), TF.gaussian_blur(x, taps, sigma)
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_a_view_is_the_ops_in_moco_v2s_order(images, p, monkeypatch):
    raw = list(images.permute(0, 2, 3, 1))
    chunked, together = cpu.in_chunks(raw, p, 32), gpu.augment(images, p, 32)
    monkeypatch.setattr(cpu, "compiled", lambda function: function)
    single = cpu.one_by_one(raw, p, 32)
    for i in range(N):
        x, y, w, h = p.box[i].tolist()
        as_bytes = TF2.resized_crop(images[i], y, x, h, w, [32, 32], antialias=True).float() / 255
        as_floats = TF.resized_crop(images[i].float() / 255, y, x, h, w, [32, 32], antialias=True)
        for ours, cropped in ((single, as_bytes), (chunked, as_bytes), (together, as_floats)):
            x = recoloured(cropped, p, i)
            x = TF.gaussian_blur(x, 23, float(p.sigma[i])) if p.blur[i] else x
            x = TF.hflip(x) if p.flip[i] else x
            torch.testing.assert_close(ours[i], TF.normalize(x, MEAN, STD), atol=1e-4, rtol=0)
    assert p.gray.any()
    assert p.blur.any()
    assert p.flip.any()


def test_nothing_is_written_into_images_or_parameters(images, p, monkeypatch):
    monkeypatch.setattr(cpu, "compiled", lambda function: function)
    raw, before, drawn = (
        list(images.permute(0, 2, 3, 1)),
        images.clone(),
        {k: t.clone() for k, t in p.columns().items()},
    )
    cpu.in_chunks(raw, p, 32)
    cpu.one_by_one(raw, p, 32)
    gpu.augment(images, p, 32)
    x = images[..., :50].float() / 255
    operations.gaussian_blur(x, p.sigma)
    gpu.recolour(x, p.jitter, p.order, p.factors, p.gray)
    assert torch.equal(images, before)
    assert torch.equal(x, before[..., :50].float() / 255)
    assert all(torch.equal(column, drawn[name]) for name, column in p.columns().items())


def test_a_chunk_may_be_gray_altogether(images, p):
    raw, everything = list(images.permute(0, 2, 3, 1)), torch.ones(N, dtype=torch.bool)
    assert 0 < p.blur.sum() < N
    gray = cpu.in_chunks(raw, replace(p, gray=everything), 32)
    torch.testing.assert_close(gray[p.gray], cpu.in_chunks(raw, p, 32)[p.gray])


@pytest.mark.slow
@pytest.mark.long
def test_compiled_colours_are_the_same(images, p):
    x = gpu.resized_crop(images, p.box, 32)
    arguments = (p.jitter, p.order, p.factors, p.gray)
    torch.testing.assert_close(
        operations.compiled(gpu.recolour)(x, *arguments), gpu.recolour(x, *arguments), atol=1e-5, rtol=0
    )
    hue, shift = operations.adjust_hue, operations.per_sample(p.factors[:1, 3])
    torch.testing.assert_close(operations.compiled(hue)(x[:1], shift), hue(x[:1], shift), atol=1e-5, rtol=0)


def test_where_nothing_compiles_views_are_made_all_the_same(caplog):
    def broken(*args):
        raise torch._dynamo.exc.TorchDynamoException("no compiler here")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "compile", lambda function, dynamic: broken)
        double = operations.compiled(lambda x: 2 * x)
    assert double(torch.ones(1)).item() == double(torch.ones(1)).item() == 2
    assert [record.getMessage() for record in caplog.records] == [
        "<lambda> runs uncompiled, slower: no compiler here"
    ]


@pytest.mark.parametrize(("height", "width"), [(50, 70), (20, 100), (90, 30)])
def test_crop_boxes_have_the_distribution_of_random_resized_crop(height, width):
    n = 4000
    scale, ratio = (0.2, 1.0), (3 / 4, 4 / 3)
    sizes = torch.tensor([[height, width]]).expand(n, 2)
    ours = crop_boxes(sizes, scale, ratio, torch.Generator().manual_seed(0)).double()
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
    """Images of several sizes, padded into one batch, give the same views as each on its own."""
    rng = torch.Generator().manual_seed(0)
    images = [torch.randint(0, 256, (h, w, 3), dtype=torch.uint8, generator=rng) for h, w in ((20, 30), (45, 70))]
    sizes = torch.tensor([image.shape[:2] for image in images])
    p = draw(sizes, Views(), torch.Generator().manual_seed(5))
    q = draw(sizes, Views(), torch.Generator().manual_seed(6))
    pixels, origin = gpu.padded(images, [p.box, q.box], torch.device("cpu"))
    boxes = torch.stack([p.box, q.box])
    extent = (boxes[..., :2] + boxes[..., 2:]).amax(dim=0) - boxes[..., :2].amin(dim=0)
    assert pixels.shape == (2, 3, extent[:, 1].max(), extent[:, 0].max())
    assert (origin[:, :2] > 0).sum() > 0
    for drawn in (p, q):
        together = gpu.augment(pixels, replace(drawn, box=drawn.box - origin), 24)
        for i in range(2):
            torch.testing.assert_close(together[i : i + 1], alone(images[i], drawn, i), atol=2e-5, rtol=0)


def test_images_of_one_size_on_the_device_are_stacked_whole():
    images = list(torch.randint(0, 256, (3, 20, 30, 3), dtype=torch.uint8))
    pixels, origin = gpu.padded(images, [torch.tensor([[5, 5, 9, 9]] * 3)], torch.device("cpu"))
    assert torch.equal(pixels.permute(0, 2, 3, 1), torch.stack(images))
    assert not origin.any()


def test_views_of_a_batch_at_once_are_in_the_encoders_memory_format(images, p):
    assert gpu.augment(images, p, 32).is_contiguous(memory_format=torch.channels_last)


def test_one_upload_returns_every_tensor():
    tensors = [
        torch.arange(3),
        torch.tensor([True, False]),
        torch.rand(5, 4),
        torch.ones(0),
        torch.zeros(7, 2, 1).long(),
    ]
    for ours, theirs in zip(gpu.upload(tensors, torch.device("cpu")), tensors, strict=True):
        assert ours.dtype == theirs.dtype
        assert torch.equal(ours, theirs)


def alone(image, p, i):
    return gpu.augment(image.permute(2, 0, 1)[None], p.part(slice(i, i + 1)), 24)


def test_probabilities_and_ranges():
    p = draw(torch.full((4000, 2), 64), Views(), torch.Generator().manual_seed(0))
    for flag, expected in ((p.jitter, 0.8), (p.gray, 0.2), (p.blur, 0.5), (p.flip, 0.5)):
        assert flag.float().mean().item() == pytest.approx(expected, abs=0.03)
    brightness, contrast, saturation, hue = p.factors.unbind(dim=1)
    for value, low, high in (
        (brightness, 0.6, 1.4),
        (contrast, 0.6, 1.4),
        (saturation, 0.6, 1.4),
        (hue, -0.1, 0.1),
        (p.sigma, 0.1, 2.0),
    ):
        assert low <= value.min() < low + 0.05 * (high - low)
        assert high - 0.05 * (high - low) < value.max() <= high


def test_views_say_where_they_came_from(images):
    raw, index = list(images.permute(0, 2, 3, 1)), torch.arange(N) + 5
    (one, two), (again, _), (other, _) = (
        make_views(raw, index, [Views(crop=32)] * 2, torch.Generator().manual_seed(s), torch.device("cpu"))
        for s in (1, 1, 2)
    )
    for a, b in zip(one[:4], again[:4], strict=True):
        assert torch.equal(a, b)
    assert one.proposals is None
    assert not torch.equal(one.box, other.box)
    assert not torch.equal(one.box, two.box)
    assert one.pixels.shape == (N, 3, 32, 32)
    assert one.image.tolist() == two.image.tolist() == index.tolist()


class Made:
    """Steps that note what was made, on a device that is called a GPU."""

    def __init__(self, device):
        self.device, self.made = torch.device(device), []

    def __getitem__(self, step):
        self.made.append(step)
        return [f"views of {step}"]


@pytest.fixture
def streams(monkeypatch):
    """Streams without a GPU; the list has what waited for another stream."""
    waited = []
    stream = SimpleNamespace(wait_stream=waited.append)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: SimpleNamespace(wait_stream=lambda other: None))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    return waited


def test_prepared_views_are_used_once_and_only_for_their_step(streams):
    steps = Made("cuda:0")
    ahead = Ahead(steps)
    assert ahead[0] == ["views of 0"]
    ahead.prepare(1)
    assert (steps.made, streams) == ([0, 1], [])
    assert ahead[2] == ["views of 2"]  # another step than the prepared one
    assert steps.made == [0, 1, 2]
    ahead.prepare(3)
    ahead._views = []  # strings have no memory to record
    assert ahead[3] == []
    assert (steps.made, len(streams)) == ([0, 1, 2, 3], 1)
    assert ahead[3] == ["views of 3"]  # made again: prepared views are given once


def test_a_cpu_prepares_nothing():
    steps = Made("cpu")
    ahead = Ahead(steps)
    ahead.prepare(1)
    assert steps.made == []
    assert ahead[1] == ["views of 1"]
