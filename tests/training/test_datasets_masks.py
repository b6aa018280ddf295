"""Masks of nucleus and cytoplasm, brought to the model's field as the pictures are."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from service.contract.image import Field, decode, load_field
from tests.support.images import encoded
from tests.support.layouts import all_idb2, all_idb2_masks, square_mask, tecom_wbc
from tests.support.realdata import data_folder
from training.datasets import DatasetError, open_dataset
from training.datasets.masks import CYTOPLASM, NUCLEUS, REST, in_field, levels, mask_of


def test_white_is_nucleus_grey_cytoplasm_black_the_rest(tmp_path: Path) -> None:
    config = {"kind": "tecom_wbc", "root": str(tecom_wbc(tmp_path))}
    for cell in open_dataset(config).cells():
        mask = mask_of(config, cell.source)
        assert mask is not None
        drawn = square_mask(48)[:44]
        assert mask.dtype == np.uint8
        assert ((mask == NUCLEUS) == (drawn == 255)).all()
        assert ((mask == CYTOPLASM) == (drawn == 128)).all()
        assert ((mask == REST) == (drawn == 0)).all()


@pytest.mark.parametrize(
    ("height", "width", "field", "pixel_size_um"),
    [
        (44, 48, Field(32, 32, 8.0), 0.0),
        (44, 48, Field(128, 128, 20.0), 0.0),
        (60, 30, Field(64, 32, 8.0), 0.0),
        (44, 48, Field(32, 32, 8.0), 0.125),
        (20, 48, Field(32, 32, 8.0), 0.25),
    ],
)
def test_a_mask_goes_where_its_picture_goes(height: int, width: int, field: Field, pixel_size_um: float) -> None:
    """A picture painted like its mask: in the field each region has its own colour, a pixel at its edge aside."""
    rng = np.random.default_rng(3)
    mask = np.zeros((height, width), dtype=np.uint8)
    for region in (1, 2):
        top, left = rng.integers(2, 6, 2) * region
        mask[top : top + height // (2 * region), left : left + width // (2 * region)] = region
    colours = np.array([[240, 240, 240], [150, 170, 220], [90, 40, 120]], dtype=np.uint8)
    picture = load_field(encoded(colours[mask]), field, pixel_size_um)
    found = in_field(mask, field, pixel_size_um)
    assert found.shape == (field.height, field.width)
    assert set(np.unique(found)) == {0, 1, 2}
    nearest = np.abs(picture[:, :, None].astype(int) - colours.astype(int)).sum(axis=3).argmin(axis=2)
    assert (nearest == found).mean() > 0.97


def test_all_idb2_s_masks_are_found_by_the_pictures_names(tmp_path: Path) -> None:
    root, masks = all_idb2(tmp_path / "set"), all_idb2_masks(tmp_path / "masks")
    config = {"kind": "all_idb2", "root": str(root), "masks": str(masks)}
    for cell in open_dataset(config).cells():
        mask, whole = mask_of(config, cell.source, Field(64, 64, 20.0)), mask_of(config, cell.source)
        assert mask is not None
        assert whole is not None
        assert mask.shape == (64, 64)
        for region in (NUCLEUS, CYTOPLASM):
            assert (mask == region).mean() == pytest.approx((whole == region).mean(), abs=0.02)
    assert mask_of({**config, "masks": str(masks / "gt")}, "all_idb2/ALL_IDB2/img/Im001_1.tif") is not None
    with pytest.raises(DatasetError, match=r"there is no folder .*nowhere: clone https://github.com/lputzu"):
        open_dataset({**config, "masks": str(tmp_path / "nowhere")})


@pytest.mark.parametrize("greys", [(0, 127, 254), (0, 1, 2), (10, 80, 200)])
def test_other_greys_are_told_by_their_order(greys: tuple[int, int, int]) -> None:
    drawn = square_mask(32)
    painted = np.select([drawn == 255, drawn == 128], [greys[2], greys[1]], greys[0]).astype(np.uint8)
    mask = levels(np.stack([painted] * 3, axis=2), Path("x.tif"))
    assert ((mask == NUCLEUS) == (drawn == 255)).all()
    assert ((mask == CYTOPLASM) == (drawn == 128)).all()
    bare = levels(np.stack([np.where(drawn == 255, 1, 0).astype(np.uint8)] * 3, axis=2) * np.uint8(99), Path("x.tif"))
    assert set(np.unique(bare)) == {REST, NUCLEUS}


def test_a_mask_in_colour_or_of_many_greys_is_refused() -> None:
    drawn = np.stack([square_mask(32)] * 3, axis=2)
    red, shaded = drawn.copy(), drawn.copy()
    red[..., 1:] = 0
    shaded[4:12, 4:12] = np.arange(50, 58)[:, None]
    for pixels in (red, shaded):
        with pytest.raises(DatasetError, match=r"x.tif is no mask of white nucleus, grey cytoplasm and black rest"):
            levels(pixels, Path("x.tif"))


def test_none_where_there_is_none(tmp_path: Path) -> None:
    root = tecom_wbc(tmp_path)
    config = {"kind": "tecom_wbc", "root": str(root)}
    (root / "002.png").unlink()
    assert mask_of(config, "tecom_wbc/002.bmp") is None
    assert mask_of(config, "all_idb2/ALL_IDB2/img/Im001_1.tif") is None
    assert mask_of({"kind": "all_idb2", "root": str(root)}, "all_idb2/ALL_IDB2/img/Im001_1.tif") is None
    assert mask_of({"kind": "synthetic", "seed": 1}, "synthetic:site-a:L1-000#0") is None


def test_a_mask_that_is_none_is_named(tmp_path: Path) -> None:
    root = tecom_wbc(tmp_path)
    config = {"kind": "tecom_wbc", "root": str(root)}
    Image.fromarray(np.tile(np.arange(48, dtype=np.uint8) * 5, (44, 1))).save(root / "001.png")
    Image.fromarray(square_mask(48)).save(root / "002.png")
    (root / "004.png").write_bytes(b"nothing")
    for name, words in {
        "001": "001.png is no mask of white nucleus, grey cytoplasm and black rest",
        "002": "002.png is 48×48, but 002.bmp is 48×44",
        "004": "004.png: not a PNG",
    }.items():
        with pytest.raises(DatasetError, match=words):
            mask_of(config, f"tecom_wbc/{name}.bmp")


@pytest.mark.realdata
def test_the_real_masks_cover_the_cells() -> None:
    """Every cell has one, with a nucleus; nuclei are darker than cytoplasm, and that than what is around."""
    config = {"kind": "tecom_wbc", "root": str(data_folder("tecom_wbc"))}
    cells = list(open_dataset(config).cells())
    darker = []
    for cell in cells:
        mask = mask_of(config, cell.source)
        assert mask is not None
        assert (mask == NUCLEUS).any()
        luma = decode(cell.image).mean(axis=2)
        darker.append(luma[mask == NUCLEUS].mean() < luma[mask == REST].mean())
        field = mask_of(config, cell.source, Field())
        assert field is not None
        assert abs((field > REST).mean() - (mask > REST).mean()) < 0.15
    assert len(cells) == 299
    assert np.mean(darker) == 1.0
