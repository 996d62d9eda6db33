"""`python -m studio STAGE` builds the studio pack: dataset, clip ... unet, build, look, or all of them in order."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable
from pathlib import Path

# results below the state folder by which `all` knows that a training is over, in the order in which they depend
RESULTS = {
    "clip": "models/clip",
    "features": "models/fr_vit",
    "vae": "models/vae",
    "judge": "models/judge.onnx",
    "parser": "models/parsing.safetensors",
    "decoder": "models/decoder.done",
    "latent_faces": "models/latent_faces.pt",
    "unet": "models/unet.done",
}

POSE = ("pose", "pose_results")  # the pose control needs the pack that `build` makes
MOTION = "motion"  # and so do the motion layers


def training(name: str) -> Callable[..., None]:
    """The function that runs a training; imported late, so that each stage needs its own packages only."""
    if name in ("features", "judge"):
        from studio.training import faces

        return faces.train_features if name == "features" else faces.train_judge
    if name == "decoder":
        from studio.training import vae

        return vae.train_decoder
    train: Callable[..., None] = importlib.import_module(f"studio.training.{name}").train
    return train


def pose(stage: str, state: Path, device: str, minutes: float | None) -> None:
    """Train the pose control and put it into the pack, or measure it, once what measures is trained."""
    import torch

    from studio.results import poses
    from studio.training import landmarks, pose_data
    from studio.training import pose as training

    pose_data.build(state)
    if stage == "pose_results":
        if not (state / "models" / "landmarks.pt").exists():
            landmarks.train(state, device=torch.device(device))
        poses.look(state)
    elif stage == "pose" or not (state / "models" / "pose").exists():
        training.train(state, device=torch.device(device), minutes=minutes)
        training.into_pack(state)


def motion(state: Path, device: str, minutes: float | None) -> None:
    """Train the motion layers, from those in the pack where there are any, and put them into the pack."""
    import torch

    from studio.training import motion as training
    from studio.training import motion_data

    motion_data.build(state)
    training.train(state, device=torch.device(device), minutes=minutes)
    training.into_pack(state)


def main() -> None:
    """Parse the command line and run one stage, or all that are not done."""
    parser = argparse.ArgumentParser(prog="python -m studio", description=__doc__)
    parser.add_argument("stage", choices=["dataset", "unpack", *RESULTS, "build", *POSE, MOTION, "look", "all"])
    parser.add_argument("--state", type=Path, default=Path("out/studio"), help="data, checkpoints, logs (not in git)")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--minutes", type=float, help="length of the training in place of its number of steps")
    parser.add_argument("--threads", type=int, default=2, help="threads of a training, processes of `dataset`")
    options = parser.parse_args()
    if options.stage in ("dataset", "all"):
        from studio.training import dataset, views

        dataset.build(options.state, processes=options.threads)
        views.build(options.state, processes=options.threads)
    if options.stage == "dataset":
        return

    import torch

    torch.set_num_threads(options.threads)
    torch.backends.cudnn.benchmark = torch.backends.cuda.matmul.allow_tf32 = True
    torch.set_flush_denormal(True)  # dead gradients of 1e-40 made the steps of a training three times as slow
    if options.stage == "unpack":
        from studio.training.unpack import unpack

        unpack(options.state)
    for name, result in RESULTS.items():
        if options.stage == name or (options.stage == "all" and not (options.state / result).exists()):
            training(name)(options.state, device=torch.device(options.device), minutes=options.minutes)
    if options.stage in ("build", "all"):
        from studio.training.build import build

        build(options.state)
    if options.stage in (*POSE, "all"):
        pose(options.stage, options.state, options.device, options.minutes)
    if options.stage == MOTION or (options.stage == "all" and not (options.state / "models" / MOTION).exists()):
        motion(options.state, options.device, options.minutes)
    if options.stage in ("look", "all"):
        from studio.results.look import look

        look(options.state)


if __name__ == "__main__":
    main()
