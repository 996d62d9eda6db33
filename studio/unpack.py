"""The pack's models back into a state folder, so that a training goes on from the pack where its state is gone."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderTiny, UNet2DConditionModel
from safetensors.torch import load_file
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer

from studio import tokenizer
from studio.build import PACK
from studio.dataset import NUM_CELEBRITIES, Dataset
from studio.people import CELEBRITY_NAMES
from studio.words import NameMap


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
        UNet2DConditionModel.from_pretrained(pack / "base" / "unet").float().save_pretrained(models / "unet")
    if not (models / "parsing.safetensors").exists():
        shutil.copy(pack / "parser" / "parsing.safetensors", models / "parsing.safetensors")
    print(f"models of {pack.name} are in {models}; a training that should start anew wants its own removed")
