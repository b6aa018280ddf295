"""The review's three designs with as many weights: convolutions alone, with an LSTM, and with a GRU (its section 6).

At equal width an LSTM has a third more recurrent weights than a GRU, and a CNN alone has none: what a reader is worth
shows only when each design may spend the same number of weights.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch

from service.contract.errors import ConfigError
from training.models.cnn_gru import CnnGru, CnnGruConfig, parameter_count
from training.models.cost import multiply_adds

CNN, LSTM, GRU = "CNN", "CNN-LSTM", "CNN-GRU"
TOLERANCE = 0.05
"""Share by which parameter counts may differ and still count as equal."""
_RUNS, _WARM_UP = 40, 5


@dataclass(frozen=True)
class Cost:
    """Weights, multiply-adds of one picture, and processor milliseconds of one picture in torch on one thread."""

    parameters: int
    multiply_adds: int
    ms: float


def equal_networks(base: CnnGruConfig) -> dict[str, CnnGruConfig]:
    """By name CNN, CNN-LSTM and CNN-GRU; `base` is the last, the others as near its parameter count as they come.

    The LSTM's hidden size is what differs, and of the CNN alone the filters of every block. Raises ConfigError when
    one cannot be brought within TOLERANCE.
    """
    gru = replace(base, rnn="gru")

    def lstm(size: int) -> CnnGruConfig:
        return replace(base, rnn="lstm", gru_hidden=size)

    def cnn(sixtyfourths: int) -> CnnGruConfig:
        channels = tuple(max(1, round(width * sixtyfourths / 64)) for width in base.channels)
        return replace(base, rnn="none", directions=1, channels=channels)

    wanted = _count(gru)
    found = {CNN: _nearest(cnn, wanted, 512), LSTM: _nearest(lstm, wanted, 2 * base.gru_hidden), GRU: gru}
    for name, config in found.items():
        if abs(_count(config) - wanted) > TOLERANCE * wanted:
            raise ConfigError(
                f"params.yaml: no {name} has about the {wanted} weights of the CNN-GRU, the nearest has "
                f"{_count(config)}: change model.channels or model.gru_hidden under claims"
            )
    return found


def _count(config: CnnGruConfig) -> int:
    # On no device: only shapes are needed, and a trunk of torchvision cannot be built so.
    if config.trunk != "cnn":
        return parameter_count(CnnGru(config))
    with torch.device("meta"):
        return parameter_count(CnnGru(config))


def _nearest(make: Callable[[int], CnnGruConfig], wanted: int, most: int) -> CnnGruConfig:
    """The config of 1…most whose parameter count, which rises, is nearest to `wanted`."""
    low, high = 1, most
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if _count(make(middle)) < wanted else (low, middle)
    return min((make(k) for k in (max(1, low - 1), low)), key=lambda config: abs(_count(config) - wanted))


def costs(configs: Mapping[str, CnnGruConfig]) -> dict[str, Cost]:
    """What each costs; timed in turns, so that what else the machine does slows all of them alike."""
    networks = {name: CnnGru(config).eval() for name, config in configs.items()}
    pictures = {name: torch.zeros(1, 3, config.height, config.width) for name, config in configs.items()}
    times: dict[str, list[float]] = {name: [] for name in configs}
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            for _ in range(_RUNS + _WARM_UP):
                for name, network in networks.items():
                    started = time.thread_time()
                    network(pictures[name])
                    times[name].append(time.thread_time() - started)
    finally:
        torch.set_num_threads(before)
    return {
        name: Cost(
            parameter_count(network),
            multiply_adds(network, pictures[name]),
            round(1000 * statistics.median(times[name][_WARM_UP:]), 3),
        )
        for name, network in networks.items()
    }
