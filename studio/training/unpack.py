"""The pack's models back into a state folder, so that a training goes on from the pack where its state is gone."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderTiny, UNet2DConditionModel
from safetensors.torch import load_file
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer

from studio.training import tokenizer
from studio.training.build import PACK
from studio.training.clip import pixels
from studio.training.dataset import NUM_CELEBRITIES, Dataset
from studio.training.latents import SCALE
from studio.training.unet import make
from studio.training.words import NameMap
from studio.world.people import CELEBRITY_NAMES

NUM_COMPARED = 400  # pictures encoded by two autoencoders, 256 cells each


def _cells(vae: AutoencoderTiny, data: Dataset, scale: float) -> torch.Tensor:
    """Scaled latents of some pictures as rows [N, C]."""
    items = np.sort(np.random.default_rng(9).choice(data.ready(), NUM_COMPARED, replace=False))
    parts = [vae.encode(pixels(data.images[part])).latents for part in np.array_split(items, 25)]
    return (torch.cat(parts) * scale).movedim(1, -1).flatten(0, -2).double()


@torch.no_grad()
def follow(unet: UNet2DConditionModel, before: torch.Tensor, after: torch.Tensor) -> UNet2DConditionModel:
    """A UNet for other latents, from least squares between both latents of the same cells [N, C], [N, D] (mean near 0).

    Both autoencoders show the same pictures, so what the inner blocks know keeps its use: only the first and the last
    convolution are rewritten. What cannot be told from the latents before is learned by going on.
    """
    to_before = torch.linalg.lstsq(after, before).solution.float()  # [D, C]
    to_after = torch.linalg.lstsq(before, after).solution.float()  # [C, D]
    followed, state = make(after.shape[1]), unet.state_dict()
    state["conv_in.weight"] = torch.einsum("ocij,dc->odij", state["conv_in.weight"], to_before)
    state["conv_out.weight"] = torch.einsum("cfij,cd->dfij", state["conv_out.weight"], to_after)
    state["conv_out.bias"] = state["conv_out.bias"] @ to_after
    followed.load_state_dict(state)
    return followed


def _copies(before: int, after: int, unit: tuple[int, int]) -> torch.Tensor:
    """For every channel of a wider layer, the channel before that it copies.

    `unit` are the widths of the changed level before and after. Copies lie side by side, so that a group of a group
    normalisation keeps its statistics. Skips add the unchanged channels of another level in front.
    """
    times = unit[1] // unit[0]
    alike = (after - before) // (unit[1] - unit[0]) * unit[0]  # channels of the changed level
    fixed = before - alike
    return torch.cat([torch.arange(fixed), torch.arange(fixed, before).repeat_interleave(times)])


@torch.no_grad()
def widen(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """A UNet as `make` makes it from one with a narrower first level: Net2Net (arXiv 1511.05641).

    Every channel of the level is there several times, and what reads it shares its weight among the copies, unevenly,
    so that they part in training. Only where a skip joins channels of both levels do groups of a normalisation change.
    """
    wide = make(unet.config.in_channels)
    unit = (unet.config.block_out_channels[0], wide.config.block_out_channels[0])
    state, noise = unet.state_dict(), torch.Generator().manual_seed(8)
    for name, target in wide.state_dict().items():
        value = state[name]
        if name == "time_embedding.linear_1.weight":  # reads frequencies: every second of the new ones is an old one
            spread = torch.zeros(target.shape[0], 2, unit[1] // 2)
            spread[..., :: unit[1] // unit[0]] = value.unflatten(1, (2, -1))
            value = spread.flatten(1)
        if value.ndim > 1 and value.shape[1] != target.shape[1]:
            copies = _copies(value.shape[1], target.shape[1], unit)
            times = torch.bincount(copies)[copies].view(-1, *[1] * (value.ndim - 2))
            value, before = value[:, copies] / times, value
            uneven = torch.randn(value.shape, generator=noise) * value.std() * (times > 1)
            mean = torch.zeros_like(before).index_add_(1, copies, uneven)[:, copies] / times
            value = value + uneven - mean
        if value.shape[0] != target.shape[0]:
            value = value[_copies(value.shape[0], target.shape[0], unit)]
        target.copy_(value)
    return wide


@torch.no_grad()
def _name_map(clip: CLIPModel, words: CLIPTokenizer, data: Dataset) -> NameMap:
    """CLIP's map from identity vectors to words, from its celebrities' tokens (least squares; the map is linear)."""
    names = NameMap(data.vectors, clip.config.text_config.hidden_size)
    table = clip.text_model.get_input_embeddings().weight.float()
    people = names.standardise(torch.from_numpy(data.vectors[:NUM_CELEBRITIES]))
    people = torch.cat([people, torch.ones(len(people), 1)], dim=1)
    for slot in range(2):
        rows = [words.convert_tokens_to_ids(f"{pair[slot]}</w>") for pair in CELEBRITY_NAMES]
        solved = torch.linalg.lstsq(people.double(), table[rows].double()).solution.float()
        names.weight[slot], names.bias[slot] = solved[:-1], solved[-1]
    return names


def unpack(state: Path, pack: Path = PACK) -> None:
    """Write `<state>/models` from a pack. What a training has made there already stays."""
    models, data = state / "models", Dataset(state)
    models.mkdir(parents=True, exist_ok=True)
    if not (models / "tokenizer").exists():
        shutil.copytree(pack / "base" / "tokenizer", models / "tokenizer")
    words = tokenizer.load(models / "tokenizer")
    if not (models / "vae").exists():
        AutoencoderTiny.from_pretrained(pack / "base" / "vae").float().save_pretrained(models / "vae")
    clip = CLIPModel.from_pretrained(pack / "clip").float()
    if not (models / "clip").exists():
        torch.save(_name_map(clip, words, data).state_dict(), models / "names.pt")
        clip.save_pretrained(models / "clip")
    if not (models / "text").exists():
        CLIPTextModel.from_pretrained(pack / "base" / "text_encoder").float().save_pretrained(models / "text")
        names = NameMap(data.vectors, clip.config.text_config.hidden_size)
        names.load_state_dict(load_file(pack / "identity_map.safetensors"))
        torch.save(names.state_dict(), models / "text_names.pt")
    if not (models / "unet").exists():
        unet = UNet2DConditionModel.from_pretrained(pack / "base" / "unet").float()
        packed, vae = (AutoencoderTiny.from_pretrained(path).float() for path in (pack / "base/vae", models / "vae"))
        same = torch.equal(packed.encoder.layers[0].weight, vae.encoder.layers[0].weight)  # or trained anew
        if not same or packed.config.scaling_factor != SCALE:
            before, after = _cells(packed, data, packed.config.scaling_factor), _cells(vae, data, SCALE)
            unet = follow(unet, before, after)
        if unet.config.block_out_channels != make().config.block_out_channels:
            unet = widen(unet)
        unet.save_pretrained(models / "unet")
    if not (models / "parsing.safetensors").exists():
        shutil.copy(pack / "parser" / "parsing.safetensors", models / "parsing.safetensors")
    print(f"models of {pack.name} are in {models}; a training that should start anew wants its own removed")
