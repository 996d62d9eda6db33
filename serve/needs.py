"""What each route needs of a key. A route that is not here is open to nobody once there are keys, and
tests/test_access.py fails."""

from __future__ import annotations

from typing import Final

from factory.store.keys import SCOPES
from factory.store.keys import Scope as KeyScope

Need = frozenset[KeyScope]  # one of these scopes
PUBLIC: Final[Need] = frozenset()  # of the server alone, of nobody in it: no key
ANY: Final[Need] = frozenset(SCOPES)
DRAW: Final[Need] = frozenset({"draw"})
LEARN: Final[Need] = frozenset({"learn"})
ERASE: Final[Need] = frozenset({"erase"})
OWN_WORK: Final[Need] = frozenset({"draw", "learn"})
ADMIN: Final[Need] = frozenset({"admin"})
WORDS: Final[Need] = frozenset({"words"})

# AUTOMATIC1111's, under /sdapi/v1
_A1111_DRAWS: Final = """
    txt2img img2img extra-single-image extra-batch-images interrogate interrupt skip png-info options
    refresh-checkpoints refresh-loras refresh-vae refresh-embeddings
"""
_A1111_SHOWS: Final = """
    sd-models samplers schedulers upscalers embeddings options memory cmd-flags scripts sd-vae sd-modules
    latent-upscale-modes hypernetworks loras face-restorers realesrgan-models prompt-styles artists artist-categories
    extensions
"""

# Every route: method and path as the app has it. HEAD is GET.
NEEDS: Final[dict[tuple[str, str], Need]] = {
    ("GET", "/healthz"): PUBLIC,
    ("GET", "/"): PUBLIC,  # the page without what it shows: it asks for a key
    ("GET", "/web/{file}"): PUBLIC,
    ("GET", "/openapi.json"): ANY,
    ("POST", "/v1/images/generations"): DRAW,
    ("GET", "/v1/models"): ANY,
    ("GET", "/v1/models/"): ANY,
    ("GET", "/v1/models/{model:name}"): ANY,
    ("POST", "/v1/images/edits"): LEARN,  # and `draw`, which the handler asks for
    ("POST", "/v1/identities"): LEARN,
    ("GET", "/v1/identities"): ANY,
    ("DELETE", "/v1/identities/{identity:name}"): ERASE,
    ("GET", "/v1/identities/{identity:name}"): ANY,
    ("GET", "/v1/identities/{identity:name}/thumbnail"): DRAW,
    ("GET", "/v1/identities/{identity:name}/masks"): DRAW,
    ("GET", "/v1/images"): DRAW,
    ("GET", "/v1/images/{image_id}/content"): DRAW,
    ("GET", "/v1/images/{image_id}/thumbnail"): DRAW,
    ("GET", "/v1/pictures/{file_id}"): DRAW,
    ("GET", "/v1/poses"): ANY,
    ("GET", "/v1/poses/{pose}/content"): ANY,
    ("GET", "/v1/jobs"): ADMIN,
    ("GET", "/v1/jobs/{job_id}/report"): ADMIN,  # it names files
    ("GET", "/v1/stats"): ANY,  # numbers of all tenants together, of nobody
    ("GET", "/v1/work"): OWN_WORK,
    ("GET", "/v1/work/{work_id}"): OWN_WORK,
    ("POST", "/v1/work/{work_id}/cancel"): OWN_WORK,
    ("POST", "/v1/videos"): DRAW,
    ("GET", "/v1/videos"): DRAW,
    ("GET", "/v1/videos/{video_id}"): DRAW,
    ("DELETE", "/v1/videos/{video_id}"): DRAW,
    ("GET", "/v1/videos/{video_id}/content"): DRAW,
    ("POST", "/v1/videos/{video_id}/remix"): DRAW,
    ("POST", "/v1/videos/edits"): DRAW,
    ("POST", "/v1/videos/extensions"): DRAW,
    ("POST", "/v1/videos/characters"): DRAW,
    ("POST", "/v1/heads"): DRAW,
    ("GET", "/v1/heads"): DRAW,
    ("GET", "/v1/heads/{head_id}"): DRAW,
    ("DELETE", "/v1/heads/{head_id}"): DRAW,
    ("GET", "/v1/heads/{head_id}/content"): DRAW,
    ("POST", "/v1/files"): DRAW,
    ("GET", "/v1/files"): DRAW,
    ("GET", "/v1/files/{file_id}"): DRAW,
    ("DELETE", "/v1/files/{file_id}"): DRAW,
    ("GET", "/v1/files/{file_id}/content"): DRAW,
    ("POST", "/v1/batches"): DRAW,
    ("GET", "/v1/batches"): DRAW,
    ("GET", "/v1/batches/{batch_id}"): DRAW,
    ("POST", "/v1/batches/{batch_id}/cancel"): DRAW,
    **{("POST", f"/sdapi/v1/{name}"): DRAW for name in _A1111_DRAWS.split()},
    **{("GET", f"/sdapi/v1/{name}"): ANY for name in _A1111_SHOWS.split()},
    **{("GET", f"/controlnet/{name}"): ANY for name in ("version", "model_list", "module_list")},
    ("GET", "/sdapi/v1/progress"): DRAW,  # with a look at the picture
    ("POST", "/internal/progress"): DRAW,
}
# Fields of an address that ask for more than the route does.
MORE: Final[dict[tuple[str, str], dict[str, Need]]] = {("GET", "/v1/identities/{identity:name}"): {"words": WORDS}}
