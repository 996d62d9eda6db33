"""Assembles the model pack `packs/studio` from the trainings' results: every weight in half precision."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from diffusers import AutoencoderTiny, DDIMScheduler, StableDiffusionPipeline
from onnx import helper, numpy_helper
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTextConfig, CLIPTextModel, ViTModel

from factory.pack import load_pack
from factory.supply.verify import record_hashes
from studio.training import tokenizer
from studio.training.dataset import PICTURE_PX, Dataset
from studio.training.latents import SCALE
from studio.training.objective import noise_schedule
from studio.training.unet import Conditioned
from studio.training.words import NameMap, bake
from studio.world.people import CELEBRITY_NAMES

PACK = Path(__file__).resolve().parents[2] / "packs" / "studio"
SHARD = "12MB"  # the UNet is split into files of this size


def average_of(state: Path, data: Dataset) -> Conditioned:
    """The diffusion model's running average from its latest checkpoint."""
    model = Conditioned(state, data.vectors)
    saved = torch.load(state / "checkpoints" / "unet.pt", map_location="cpu", weights_only=True)
    model.load_state_dict(saved["average"])
    print(f"unet at step {saved['step']}, {saved['seconds'] / 60:.0f} minutes")
    return model.eval()


def _text_encoder(tower: Any, config: CLIPTextConfig) -> CLIPTextModel:
    """The text tower of a CLIPModel as a CLIPTextModel of its own."""
    text = CLIPTextModel(config)
    state = {k.removeprefix("text_model."): v for k, v in tower.state_dict().items()}
    names = list(text.state_dict())
    prefix = "text_model." if names[0].startswith("text_model.") else ""
    text.load_state_dict({prefix + k: v for k, v in state.items()})
    return text.eval()


def _base(state: Path, pack: Path, data: Dataset, words: Any) -> None:
    model = average_of(state, data)
    config = CLIPConfig.from_pretrained(state / "models" / "clip").text_config
    text = _text_encoder(model.named.text, config)
    bake(text, model.named.names, words, data.vectors)
    vae = AutoencoderTiny.from_pretrained(state / "models" / "vae")
    vae.register_to_config(scaling_factor=SCALE)
    # DDIM as Stable Diffusion ships it; the factory puts DPM-Solver++ in its place
    scheduler = DDIMScheduler.from_config(dict(noise_schedule().config), set_alpha_to_one=False)
    pipe = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=words,
        unet=model.unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.to(dtype=torch.float16)
    pipe.save_pretrained(pack / "base")
    shutil.rmtree(pack / "base" / "unet")
    pipe.unet.save_pretrained(pack / "base" / "unet", max_shard_size=SHARD)
    for file in (pack / "base").glob("*/config.json"):  # diffusers notes the folder a model came from
        config = {key: value for key, value in json.loads(file.read_text()).items() if key != "_name_or_path"}
        file.write_text(json.dumps(config, indent=2) + "\n")
    names = model.named.names
    tensors = {"weight": names.weight, "bias": names.bias, "mean": names.mean, "std": names.std}
    save_file({k: v.detach().float().contiguous() for k, v in tensors.items()}, pack / "identity_map.safetensors")


def _clip(state: Path, pack: Path, data: Dataset, words: Any) -> None:
    """CLIP for the evaluation: its own text tower with its own celebrity words."""
    clip = CLIPModel.from_pretrained(state / "models" / "clip")
    names = NameMap(data.vectors, clip.config.text_config.hidden_size)
    names.load_state_dict(torch.load(state / "models" / "names.pt", weights_only=True))
    bake(clip.text_model, names, words, data.vectors)
    clip.half().save_pretrained(pack / "clip")
    words.save_pretrained(pack / "clip")
    size = {"height": PICTURE_PX, "width": PICTURE_PX}
    CLIPImageProcessor(
        size=size, crop_size=size, do_center_crop=False, image_mean=[0.5] * 3, image_std=[0.5] * 3
    ).save_pretrained(pack / "clip")


def halve(source: Path, target: Path) -> None:
    """Store an ONNX network's weights in half precision; casts bring them back to float32 when it is loaded."""
    model = onnx.load(source)
    casts, kept = [], []
    for weight in model.graph.initializer:
        values = numpy_helper.to_array(weight)
        if values.dtype != np.float32 or values.size < 256:
            kept.append(weight)
            continue
        kept.append(numpy_helper.from_array(values.astype(np.float16), f"{weight.name}_half"))
        casts.append(helper.make_node("Cast", [f"{weight.name}_half"], [weight.name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.initializer[:], model.graph.node[:]
    model.graph.initializer.extend(kept)
    model.graph.node.extend(nodes)
    onnx.checker.check_model(model)
    onnx.save(model, target)


def build(state: Path, pack: Path = PACK) -> None:
    """Write every part that is trained by now, then check that the pack loads, and print its sizes."""
    data = Dataset(state)
    words = tokenizer.load(state / "models" / "tokenizer")
    pack.mkdir(parents=True, exist_ok=True)
    (pack / "celebrities.txt").write_text("".join(f"{first} {last}\n" for first, last in CELEBRITY_NAMES))
    models = state / "models"
    _clip(state, pack, data, words)
    if (models / "fr_vit").exists():
        shutil.copytree(models / "fr_vit", pack / "fr_vit", dirs_exist_ok=True)
        ViTModel.from_pretrained(models / "fr_vit", add_pooling_layer=False).half().save_pretrained(pack / "fr_vit")
    if (models / "parsing.safetensors").exists():
        (pack / "parser").mkdir(exist_ok=True)
        shutil.copy(models / "parsing.safetensors", pack / "parser" / "parsing.safetensors")
    if (models / "judge.onnx").exists():
        (pack / "faces").mkdir(exist_ok=True)
        halve(models / "judge.onnx", pack / "faces" / "judge.onnx")
    if (state / "checkpoints" / "unet.pt").exists():
        _base(state, pack, data, words)
        StableDiffusionPipeline.from_pretrained(pack / "base", safety_checker=None)
    built = load_pack(pack)
    for name, part in built.parts().items():
        if built.place(part).exists():  # the pose control is trained on what is built here
            record_hashes(built, name)
    files = sorted(path for path in pack.rglob("*") if path.is_file())
    for path in files:
        print(f"{path.stat().st_size / 2**20:8.2f} MiB  {path.relative_to(pack)}")
    print(f"{sum(path.stat().st_size for path in files) / 2**20:8.2f} MiB in all")
