"""What clients of AUTOMATIC1111's API send to txt2img (its version 1.10), and what becomes of each field."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from serve.a1111.infotext import parse
from serve.openai.schemas import MAX_IMAGES, MAX_SEED, MAX_SIDE_PX, MIN_SIDE_PX, PoseField, RequestRefused
from serve.openai.values import Prompt, Real, Whole

Sampler = Literal["dpm_solver++", "ddim", "euler"]
SAMPLERS: Final[dict[str, Sampler]] = {"DPM++ 2M": "dpm_solver++", "Euler": "euler", "DDIM": "ddim"}  # theirs -> ours
# What clients ask for unless they are told otherwise, and what is nearest to it here; the answer's info says so.
NEAREST: Final = {"Euler a": "Euler", "DPM++ 2M SDE": "DPM++ 2M", "DPM++ SDE": "DPM++ 2M", "DDIM CFG++": "DDIM"}
_ALIASES: Final = {"k_euler": "Euler", "k_euler_a": "Euler a", "k_dpmpp_2m": "DPM++ 2M"}  # theirs, too
_BY_NAME: Final = {name.lower(): of for name, of in {**{n: n for n in SAMPLERS}, **NEAREST, **_ALIASES}.items()}
# In the names of older versions' samplers, in a field of later ones: the schedule is the pack's own, and they are told
_SCHEDULES: Final = (
    *("karras", "exponential", "heun", "polyexponential", "uniform", "sgm uniform", "sgm_uniform", "kl optimal"),
    *("kl_optimal", "align your steps", "align_your_steps", "simple", "normal", "ddim", "beta", "turbo"),
)
SCHEDULERS: Final = ("automatic", "", *_SCHEDULES)
# Asked for only by what is no default: then the picture is drawn without it, and that is told.
UNDONE: Final[dict[str, str]] = {
    "enable_hr": "there is no second pass: ask for the size itself",
    "tiling": "pictures are not tiled",
    "restore_faces": "there is no face restoration: the identity's own face is drawn",
    "styles": "there are no prompt styles: write them into the prompt",
    "subseed_strength": "seeds are not mixed",
    "refiner_checkpoint": "there is one model and no refiner",
    "firstphase_width": "there is no first phase: ask for the size itself",
    "firstphase_height": "there is no first phase: ask for the size itself",
    "seed_resize_from_w": "noise is drawn for the picture's own size",
    "seed_resize_from_h": "noise is drawn for the picture's own size",
}
_NO_SCRIPT: Final = "script_name: there are no scripts but ControlNet's"  # as A1111 refuses one that it has not
# An infotext's settings, and the fields that they are read into where a request does not give these.
_OF_INFOTEXT: Final = {
    "Prompt": "prompt", "Negative prompt": "negative_prompt", "Seed": "seed", "Steps": "steps", "Size-1": "width",
    "Size-2": "height", "CFG scale": "cfg_scale", "Sampler": "sampler_name", "Schedule type": "scheduler",
}  # fmt: skip
WITHOUT_EFFECT: Final = (  # settings of what is not done, of samplers that are not there, of files on the server
    *("denoising_strength", "hr_scale", "hr_upscaler", "hr_second_pass_steps", "hr_resize_x", "hr_resize_y"),
    *("hr_checkpoint_name", "hr_sampler_name", "hr_scheduler", "hr_prompt", "hr_negative_prompt", "subseed"),
    *("do_not_save_samples", "do_not_save_grid", "save_images", "eta", "s_churn", "s_tmax", "s_tmin", "s_noise"),
    *("s_min_uncond", "override_settings_restore_afterwards", "script_args", "refiner_switch_at", "comments"),
    *("disable_extra_networks", "firstpass_image"),
)
# Of these, what asks for another picture than is drawn unless it is as clients send it by themselves: told as unknown
# fields are.
_TOLD: Final = {"eta": "1", "s_noise": "1", "s_churn": "0", "s_tmin": "0", "s_tmax": "0", "s_min_uncond": "0"}
_PLACEHOLDERS: Final = ("string", ["string"])  # of every text, in the request that A1111's /docs shows
HONOURED: Final = (
    *("prompt", "negative_prompt", "seed", "steps", "cfg_scale", "width", "height", "batch_size", "n_iter"),
    *("sampler_name", "sampler_index", "scheduler", "send_images", "alwayson_scripts", "force_task_id"),
    *("override_settings", "infotext", "script_name"),
)
Side = Annotated[Whole, Field(ge=MIN_SIDE_PX, le=MAX_SIDE_PX)]


class Txt2Img(BaseModel):
    """POST /sdapi/v1/txt2img. null means not given. An unknown field is named in x-ignored-fields."""

    model_config = ConfigDict(extra="allow")

    prompt: Prompt = Field(default="", max_length=32_000)
    negative_prompt: str = Field(default="", max_length=32_000)
    seed: Whole = Field(default=-1, ge=-1, le=MAX_SEED)
    steps: Whole = Field(default=50, ge=1, le=200)
    cfg_scale: Real = Field(default=7.0, ge=0.0, le=100.0, allow_inf_nan=False)
    width: Side = 512  # px
    height: Side = 512  # px
    batch_size: Whole = Field(default=1, ge=1, le=MAX_IMAGES)
    n_iter: Whole = Field(default=1, ge=1, le=MAX_IMAGES)
    sampler_name: str | None = None
    sampler_index: str = "Euler"
    scheduler: str = "automatic"
    send_images: bool = True
    alwayson_scripts: dict[str, Any] = Field(default={})
    force_task_id: str | None = Field(default=None, max_length=200)
    override_settings: dict[str, Any] = Field(default={})
    infotext: str | None = None  # what of the fields above is not given is read from it
    script_name: Any = None

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, fields: Any) -> Any:
        if not isinstance(fields, dict):
            return fields
        given = {
            name: v for name, v in fields.items() if v is not None and (v not in _PLACEHOLDERS or name == "prompt")
        }
        if not _is_off(given.get("script_name")):
            raise ValueError(_NO_SCRIPT)
        told = parse(text) if isinstance(text := given.get("infotext"), str) else {}
        given = {field: told[name] for name, field in _OF_INFOTEXT.items() if told.get(name)} | given
        for name in ("alwayson_scripts", "override_settings"):  # where an object has nothing in it, PHP writes an array
            if given.get(name) == []:
                del given[name]
        return given

    @property
    def num_images(self) -> int:
        """Of all batches together."""
        return self.batch_size * self.n_iter

    def sampler(self) -> str:
        """The sampler that is used, by their name. Raises RequestRefused."""
        asked = self.sampler_name or self.sampler_index
        if found := _BY_NAME.get(asked.strip().lower().removesuffix(f" {_schedule_in(asked)}")):
            return NEAREST.get(found, found)
        raise RequestRefused(f"no sampler {asked[:100]!r}; there are {', '.join(SAMPLERS)}", "sampler_name", status=404)

    def schedule_asked(self) -> str | None:
        """The schedule that was asked for, in its own field or in the sampler's name; None is the one that is used."""
        if self.scheduler.strip().lower() not in ("", "automatic"):
            return self.scheduler
        named = _schedule_in(asked := self.sampler_name or self.sampler_index)
        return asked.strip()[-len(named) :] if named else None

    def undone(self) -> dict[str, str]:
        """Fields of A1111's that ask for what is not done, and why it is not."""
        extra = self.model_extra or {}
        return {name: why for name, why in UNDONE.items() if not _is_off(extra.get(name))}

    def check(self) -> None:
        """Raises RequestRefused."""
        if self.scheduler.strip().lower() not in SCHEDULERS:
            raise RequestRefused("the only schedule is the pack's own: ask for automatic", "scheduler", status=404)
        if self.num_images > MAX_IMAGES:
            raise RequestRefused(f"at most {MAX_IMAGES} pictures of one request (batch_size x n_iter)", "batch_size")

    def ignored(self) -> list[str]:
        """Fields that are not known at all, or ask for what is not done."""
        extra = self.model_extra or {}
        asking = {
            name
            for name, usual in _TOLD.items()
            if not _is_off(value := extra.get(name)) and str(value).removesuffix(".0") != usual
        }
        known = {*WITHOUT_EFFECT, *UNDONE} - asking - self.undone().keys()
        scripts = [f"alwayson_scripts.{name}" for name, script in self.alwayson_scripts.items() if _asks(name, script)]
        return [*(name for name in extra if name not in known), *scripts]

    def poses(self) -> list[PoseField]:
        """ControlNet's units as poses. Raises RequestRefused for those that are none, unless they are switched off."""
        return [
            _pose(unit)
            for name, script in self.alwayson_scripts.items()
            for unit in (_args(script) if name.lower() == "controlnet" else ())
            if isinstance(unit, dict) and not _is_off(unit.get("enabled", True))
        ]


def _schedule_in(sampler: str) -> str:
    """The schedule at the end of an older version's name of a sampler, in small letters; empty if there is none."""
    plain = sampler.strip().lower()
    return max((name for name in _SCHEDULES if plain.endswith(f" {name}")), key=len, default="")


def _args(script: Any) -> list[Any]:
    args = script.get("args") if isinstance(script, dict) else None
    return args if isinstance(args, list) else [args]


def _asks(name: str, script: Any) -> bool:
    """Whether it asks for what is not done: any other script than ControlNet's, unless it is switched off."""
    return name.lower() != "controlnet" and _args(script)[:1] not in ([], [False], [None])


def _is_off(value: Any) -> bool:
    """Whether a field asks for nothing; some clients write texts for it."""
    plain = value.strip().lower() if isinstance(value, str) else value
    return plain in (None, False, 0, -1, "", "none", "false", "off", "no", "0", "0.0", "-1", [], {})


def _pose(unit: dict[str, Any]) -> PoseField:
    module = str(unit.get("module") or "none").lower()
    image = unit.get("image") or unit.get("input_image")
    if isinstance(image, dict):  # of older versions, with its mask
        image = image.get("image")
    if not isinstance(image, str) or not image:
        raise RequestRefused("a ControlNet unit needs an image, in base64", "alwayson_scripts")
    if module != "none" and "openpose" not in module:
        message = f"module {module[:100]!r}: only poses are followed; ask for openpose, or none with a ready skeleton"
        raise RequestRefused(message, "alwayson_scripts")
    names = {"weight": "scale", "guidance_start": "start", "guidance_end": "end"}
    counts: dict[str, Any] = {ours: unit[theirs] for theirs, ours in names.items() if unit.get(theirs) is not None}
    try:
        return PoseField.model_validate({"skeleton" if module == "none" else "photo": image, **counts})
    except ValueError:
        raise RequestRefused("weight is 0 to 2, guidance_start and guidance_end 0 to 1", "alwayson_scripts") from None
