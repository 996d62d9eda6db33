"""Errors cross from one process to another without a change."""

from __future__ import annotations

import inspect
import pickle

import pytest

import factory.errors
import serve.catalog
import serve.client
import serve.openai.schemas
import serve.stopping
from factory.errors import PhotoRejected, SceneRefused
from serve.client import QueueFull
from serve.openai.schemas import RequestRefused

TWO_ARGUMENTS = {
    PhotoRejected: ("no_face", "no face scores 0.5"),
    QueueFull: (1.5,),
    RequestRefused: ("too long", "prompt"),
    SceneRefused: ("too many people", "prompt"),
}
OURS = [
    kind
    for module in (factory.errors, serve.catalog, serve.client, serve.openai.schemas, serve.stopping)
    for kind in vars(module).values()
    if inspect.isclass(kind) and issubclass(kind, Exception) and kind.__module__ == module.__name__
]


@pytest.mark.parametrize("kind", OURS)
def test_an_error_survives_pickling(kind: type[Exception]) -> None:
    error = kind(*TWO_ARGUMENTS.get(kind, ("what happened",)))
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind and str(again) == str(error) and vars(again) == vars(error)
    assert str(error), "it says something"
