"""Which configs a run uses: the preset, then what the pack needs otherwise, then what the user said."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from pydantic import ValidationError

from factory.config import (
    AnimateConfig,
    AssessConfig,
    Config,
    EngineConfig,
    EvaluateConfig,
    GenerateConfig,
    MethodConfig,
    PrepareConfig,
    Recipe,
    SculptConfig,
    TrainConfig,
    checked_size,
    preset,
)
from factory.pack import Pack

C = TypeVar("C", bound=Config)


def prepare_settings(overrides: Mapping[str, object] | None = None) -> PrepareConfig:
    """The limits of a preparing run. Raises ValueError naming the field and what it takes."""
    changes = _known(overrides, PrepareConfig)
    return _changed(PrepareConfig(), changes)


def train_settings(pack: Pack, name: str = "paper", overrides: Mapping[str, object] | None = None) -> Recipe:
    """The recipe of a training run; it bears the preset's name until the user changes the method, then "custom".

    Values may be strings, as on a command line. Raises ValueError naming the field and what it takes.
    """
    changes = _known(overrides, MethodConfig, TrainConfig)
    base = preset(name)
    method, train = _changed(base.method, pack.train), _changed(base.train, pack.train)
    own = _changed(method, changes)
    return Recipe(preset=name if own == method else "custom", method=own, train=_changed(train, changes))


def engine_settings(overrides: Mapping[str, object] | None = None) -> EngineConfig:
    """How training runs on the hardware. Raises ValueError naming the field and what it takes."""
    return _changed(EngineConfig(), _known(overrides, EngineConfig))


def generate_settings(pack: Pack, overrides: Mapping[str, object] | None = None) -> GenerateConfig:
    """The config of generation. Raises ValueError naming the field and what it takes."""
    config = _changed(_changed(GenerateConfig(), pack.generate), _known(overrides, GenerateConfig))
    checked_size(pack.name, pack.resolution, config.width_px, config.height_px)
    return config


def sculpt_settings(overrides: Mapping[str, object] | None = None) -> SculptConfig:
    """The config of sculpting. Raises ValueError naming the field and what it takes."""
    return _changed(SculptConfig(), _known(overrides, SculptConfig))


def animate_settings(pack: Pack, overrides: Mapping[str, object] | None = None) -> AnimateConfig:
    """The config of clips, their frames' included. Raises ValueError naming the field and what it takes."""
    changes = _known({"generate": None, **(overrides or {})}, AnimateConfig, GenerateConfig)
    of_frames = _changed(_changed(GenerateConfig(), pack.generate), changes)
    side = pack.resolution if pack.video is None else pack.video.resolution
    checked_size(pack.name, side, of_frames.width_px, of_frames.height_px)
    maker = pack.video or pack.motion
    trained_on = {} if maker is None else {"num_frames": maker.num_frames, "fps": maker.fps}
    return _changed(AnimateConfig(), {**trained_on, **changes, "generate": of_frames})


def evaluate_settings(pack: Pack, overrides: Mapping[str, object] | None = None) -> EvaluateConfig:
    """The config of an evaluation. Raises ValueError naming the field and what it takes."""
    changes = _known(overrides, EvaluateConfig)
    return _changed(_changed(EvaluateConfig(), pack.evaluate), changes)


def assess_settings(pack: Pack, overrides: Mapping[str, object] | None = None) -> AssessConfig:
    """How identities are assessed. Raises ValueError naming the field and what it takes."""
    return _changed(pack.quality, _known(overrides, AssessConfig))


def _known(overrides: Mapping[str, object] | None, *configs: type[Config]) -> Mapping[str, object]:
    fields = [name for config in configs for name in config.model_fields]
    unknown = sorted(set(overrides or {}) - set(fields))
    if unknown:
        raise ValueError(f"no setting {', '.join(unknown)}; there are {', '.join(fields)}")
    return overrides or {}


def _changed(config: C, changes: Mapping[str, object]) -> C:
    own = {name: value for name, value in changes.items() if name in type(config).model_fields}
    try:
        return type(config).model_validate({**config.model_dump(), **own})
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc']))}={e['input']!r}: {e['msg']}" for e in error.errors())
        raise ValueError(f"{type(config).__name__}: {faults}") from None
