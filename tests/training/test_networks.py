"""What a config may describe beyond the default network: readers, orders, pooling, views, the stem that unmixes."""

from dataclasses import replace

import pytest
import torch

from tests.support.networks import SMALL, network, smears
from training.models.cnn_gru import CnnGru, CnnGruConfig
from training.models.cost import multiply_adds
from training.models.sequence import AttentionPooling, reading_order
from training.models.stain import EOSIN, METHYLENE_BLUE, Deconvolution, optical_density
from training.models.views import stack_views


@pytest.mark.parametrize(
    ("change", "complaint"),
    [({"rnn": "rnn"}, "one of gru, lstm, none"), ({"directions": 3}, "directions"), ({"order": "spiral"}, "snake"),
     ({"pooling": "max"}, "attention"), ({"stem": "none"}, "deconvolution"), ({"views": 3}, "views"),
     ({"rnn": "none", "directions": 2}, "nothing reads"), ({"trunk_layers": 2}, "trunk_layers"),
     ({"trunk": "resnet18", "stem": "deconvolution"}, "plain colours"), ({"views": 8, "height": 64}, "use 4")],
)  # fmt: skip
def test_choices_that_exclude_each_other(change: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        CnnGruConfig.from_json({**SMALL.to_json(), **change})


def test_a_config_of_before_the_choices_is_the_default() -> None:
    """build/model_config.json of an earlier version has none of them."""
    old = {name: SMALL.to_json()[name] for name in ("classes", "height", "width", "channels", "gru_hidden", "features")}
    assert CnnGruConfig.from_json({**old, "dropout": 0.1}) == SMALL


def test_the_default_weights_are_drawn_as_ever() -> None:
    """Names, order and values: a version that was trained before the choices came is trained again, bit for bit."""
    torch.manual_seed(0)
    found = CnnGru(CnnGruConfig(classes=4))
    normalised = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    assert list(found.state_dict()) == [
        *(
            name
            for k in range(4)
            for name in (f"blocks.{k}.0.weight", *(f"blocks.{k}.2.{part}" for part in normalised))
        ),
        *(f"gru.{part}_l0" for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")),
        *("dense.weight", "dense.bias", "classify.weight", "classify.bias"),
    ]
    torch.manual_seed(0)
    first = torch.nn.Conv2d(12, 16, 3, padding=1, bias=False).weight
    assert torch.equal(found.state_dict()["blocks.0.0.weight"], first)
    rest = [torch.nn.Conv2d(*shape, 3, bias=False) for shape in ((16, 32), (32, 64), (64, 96))]
    reader = torch.nn.GRU(96, 96)
    assert torch.equal(found.state_dict()["blocks.3.0.weight"], rest[-1].weight)
    assert torch.equal(found.state_dict()["gru.weight_hh_l0"], reader.state_dict()["weight_hh_l0"])
    assert torch.equal(found.state_dict()["dense.weight"], torch.nn.Linear(96, 64).weight)


def test_orders_of_reading() -> None:
    assert reading_order("rows", 3, 4) is None
    assert reading_order("columns", 3, 2).tolist() == [0, 2, 4, 1, 3, 5]  # type: ignore[union-attr]
    snake = reading_order("snake", 3, 4)
    assert snake is not None and snake.tolist() == [0, 1, 2, 3, 7, 6, 5, 4, 8, 9, 10, 11]
    y, x = snake // 4, snake % 4
    assert (y.diff().abs() + x.diff().abs() == 1).all()  # neighbours follow each other


def test_another_order_is_another_sequence_of_the_same_places() -> None:
    density = torch.rand(1, 3, 32, 32)
    rows, columns = (network(replace(SMALL, order=order, rnn="none")) for order in ("rows", "columns"))
    with torch.inference_mode():
        one, other = rows.states(density), columns.states(density)
    assert torch.equal(one.view(1, 2, 2, 8).transpose(1, 2).reshape(1, 4, 8), other)
    assert not torch.equal(one, other)


@pytest.mark.parametrize(("directions", "width"), [(1, 8), (2, 16)])
@pytest.mark.parametrize("rnn", ["gru", "lstm"])
def test_readers(rnn: str, directions: int, width: int) -> None:
    found = network(replace(SMALL, rnn=rnn, directions=directions))
    density = torch.rand(2, 3, 32, 32)
    states = found.states(density)
    assert states.shape == (2, 4, width) and found(density)[0].shape == (2, 3)
    later = density.clone()
    later[:, :, 16:, 16:] += torch.rand(2, 3, 16, 16)  # the last place read
    moved = (found.states(later) - states).abs()[:, 0].sum(dim=0)
    # The picture's own mean moves everything a little; only who reads backwards sees the last place at the first one.
    assert (moved[8:].sum() > 0) == (directions == 2)


def test_attention_weighs_places() -> None:
    torch.manual_seed(0)
    pooling, states = AttentionPooling(8), torch.randn(2, 5, 8)
    shares = pooling.shares(states)
    assert torch.allclose(shares.sum(dim=1), torch.ones(2)) and (shares > 0).all() and shares.std() > 0
    assert torch.allclose(pooling(states)[1], shares[1] @ states[1], atol=1e-6)
    with torch.no_grad():
        pooling.score.weight.zero_()
    assert torch.allclose(pooling(states), states.mean(dim=1), atol=1e-6)


@pytest.mark.parametrize("number", [1, 2, 4, 8])
def test_views_are_a_group(number: int) -> None:
    """The same views whichever of them a picture comes in: so their average is no matter of how a cell lay."""
    picture = torch.rand(1, 3, 6, 6)
    views = stack_views(picture, number)
    assert len(views) == number and torch.equal(views[:1], picture)
    assert len({view.numpy().tobytes() for view in views}) == number
    for view in views:
        again = stack_views(view[None], number)
        assert {one.numpy().tobytes() for one in again} == {one.numpy().tobytes() for one in views}


def test_a_network_of_eight_views_answers_a_turned_picture_alike() -> None:
    plain, averaged = (network(replace(SMALL, views=views)) for views in (1, 8))
    density = optical_density(torch.from_numpy(smears(3)))
    turned = density.rot90(1, (2, 3))
    with torch.inference_mode():
        logits, features = averaged(density)
        assert torch.allclose(averaged(turned)[0], logits, atol=1e-4)
        assert not torch.allclose(plain(turned)[0], plain(density)[0], atol=1e-2)
        each = torch.stack([plain(view)[0] for view in stack_views(density, 8).view(8, 3, 3, 32, 32)])
        assert torch.allclose(logits, each.mean(dim=0), atol=1e-4)  # of the logits too, since the last layer is linear
        assert torch.allclose(averaged.classify(features), logits)
    averaged.train()
    averaged.dropout.eval()
    for module in averaged.blocks.modules():
        module.eval()
    assert torch.allclose(averaged(density)[0], plain(density)[0], atol=1e-5)  # trained on one view


def test_the_stem_unmixes_known_stains_and_learns() -> None:
    stem = Deconvolution()
    amounts = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.25]])
    stains = torch.tensor([METHYLENE_BLUE, EOSIN])
    stains = stains / stains.norm(dim=1, keepdim=True)
    found = stem((amounts @ stains).view(3, 3, 1, 1)).view(3, 3)
    assert torch.allclose(found, torch.cat([amounts, torch.zeros(3, 1)], dim=1), atol=1e-5)
    unmixing = network(replace(SMALL, stem="deconvolution"))
    unmixing(torch.rand(2, 3, 32, 32))[0].sum().backward()
    assert unmixing.stem.weight.grad is not None and unmixing.stem.weight.grad.abs().sum() > 0


def test_multiply_adds_are_counted_by_hand() -> None:
    """A recurrent network has gates × hidden × (inputs + hidden) products a place; the fused LSTM hides none."""
    picture = torch.zeros(1, 3, 32, 32)
    counted = {rnn: multiply_adds(CnnGru(replace(SMALL, rnn=rnn)), picture) for rnn in ("none", "gru", "lstm")}
    blocks = sum(9 * side**2 * before * after for side, before, after in ((16, 12, 4), (8, 4, 8), (4, 8, 8)))
    assert counted["none"] == blocks + 8 * 12 + 12 * 3
    assert counted["gru"] - counted["none"] == 4 * 3 * 8 * (8 + 8)
    assert counted["lstm"] - counted["none"] == 4 * 4 * 8 * (8 + 8)
