"""The colour histogram against counting by hand."""

import torch

from mlssl.parts.backbone import create_backbone, global_average_pool, stage_maps


def slow(cell):
    """Histogram of a 3 x h x w cell."""
    counts = torch.zeros(64)
    for r, g, b in cell.flatten(1).T.tolist():
        level = [sum(value > edge for edge in (-1, 0, 1)) for value in (r, g, b)]
        counts[16 * level[0] + 4 * level[1] + level[2]] += 1
    return counts / counts.sum()


def test_every_cell_is_its_own_histogram():
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    found = create_backbone("colour_histogram")(pixels)
    assert found.shape == (2, 64, 2, 2)
    assert torch.allclose(found[1, :, 0, 1], slow(pixels[1, :, :32, 32:]))


def test_its_stages_have_a_resnets_strides_and_pool_to_the_same_histogram():
    pixels = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    maps = stage_maps(create_backbone("colour_histogram", output_stride=16), pixels)
    assert [m.shape[-1] for m in maps] == [16, 8, 4, 4]
    for each in maps:
        assert torch.allclose(global_average_pool(each)[0], slow(pixels[0]), atol=1e-6)


def test_it_has_no_weights():
    backbone = create_backbone("colour_histogram")
    assert not backbone.state_dict()
    assert not list(backbone.parameters())
