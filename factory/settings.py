"""Which configs a run uses: the preset, then what the pack needs otherwise, then what the user said."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import ValidationError

from factory.config import Config, GenerateConfig, MethodConfig, Preset, TrainConfig, preset
from factory.pack import Pack


def train_settings(
    pack: Pack, name: Preset = "paper", overrides: Mapping[str, object] | None = None
) -> tuple[str, MethodConfig, TrainConfig]:
    """The configs of a training run, and the preset's name, which is "custom" once the user changed the method.

    Values may be strings, as on a command line. Raises ValueError naming the field and what it takes.
    """
    changes = dict(overrides or {})
    unknown = set(changes) - {*MethodConfig.model_fields, *TrainConfig.model_fields}
    if unknown:
        raise ValueError(
            f"no setting {', '.join(sorted(unknown))}; MethodConfig has {', '.join(MethodConfig.model_fields)}; "
            f"TrainConfig has {', '.join(TrainConfig.model_fields)}"
        )
    method, train = preset(name)
    method, train = _changed(method, pack.train), _changed(train, pack.train)
    own_method, own_train = _changed(method, changes), _changed(train, changes)
    return (name if own_method == method else "custom"), own_method, own_train


def generate_settings(pack: Pack, overrides: Mapping[str, object] | None = None) -> GenerateConfig:
    """The config of generation. Raises ValueError naming the field and what it takes."""
    changes = dict(overrides or {})
    unknown = set(changes) - set(GenerateConfig.model_fields)
    if unknown:
        raise ValueError(
            f"no setting {', '.join(sorted(unknown))}; GenerateConfig has {', '.join(GenerateConfig.model_fields)}"
        )
    return _changed(_changed(GenerateConfig(), pack.generate), changes)


def _changed[C: Config](config: C, changes: Mapping[str, object]) -> C:
    own = {name: value for name, value in changes.items() if name in type(config).model_fields}
    try:
        return type(config).model_validate({**config.model_dump(), **own})
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc']))}={e['input']!r}: {e['msg']}" for e in error.errors())
        raise ValueError(f"{type(config).__name__}: {faults}") from None
