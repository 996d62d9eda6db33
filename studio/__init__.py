"""The synthetic portrait world: people, scenes, pictures and captions, all computed from their arguments."""

import factory as _factory  # noqa: F401  must come before diffusers and transformers: see its docstring
