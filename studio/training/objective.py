"""What the UNet is trained for: the squared error of v, weighted, and guesses in which the person is recognised."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import DDPMScheduler

from studio.training.latent_faces import LatentFaces, distance
from studio.training.latents import Encoded
from studio.training.loop import working_precision

X0_WEIGHT_LIMIT = 10.0
FACE_WEIGHT, HAIR_WEIGHT = 5.0, 2.0  # of latent cells in the loss; the rest has 1. The optimum stays, capacity moves
LIKENESS_BELOW = 500  # time steps whose guess of the picture is clear enough to recognise somebody
LIKENESS_WEIGHT = 4.0  # of the distance between guess and truth as `LatentFaces` sees them


def noise_schedule() -> DDPMScheduler:
    """Stable Diffusion's betas, brought to no signal at all at the last step, and v-prediction (arXiv 2305.08891).

    An eps-prediction hardly learns what the first steps of sampling need, the picture that a text means: at SNR 0.01
    that is a hundredth of its error.
    """
    return DDPMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
    )


def step_weights(schedule: DDPMScheduler) -> torch.Tensor:
    """Weight of the v error per step: an error of the predicted picture counts min(SNR + 1, 10), never less than 1."""
    return (X0_WEIGHT_LIMIT * (1 - schedule.alphas_cumprod)).clamp(max=1)


def cell_weights(face: torch.Tensor, hair: torch.Tensor) -> torch.Tensor:
    """Loss weight per latent cell [B, 1, 16, 16] from the shares of face and hair in each."""
    return (1 + (FACE_WEIGHT - 1) * face + (HAIR_WEIGHT - 1) * hair)[:, None]


class Objective:
    """The loss of a batch, and the time steps it is asked at."""

    def __init__(self, state: Path, device: torch.device) -> None:
        self.schedule, self.device = noise_schedule(), device
        self.weights = step_weights(self.schedule).to(device)
        self.signal = self.schedule.alphas_cumprod.to(device)
        saved = torch.load(state / "models" / "latent_faces.pt", map_location=device, weights_only=True)
        self.faces = LatentFaces.restored(saved).to(device)

    def steps(self, size: int, random: torch.Generator) -> torch.Tensor:
        """One time step from each part of the schedule, ascending: less noise than independent draws, int64 [B]."""
        places = torch.arange(size, device=self.device) + torch.rand(size, generator=random, device=self.device)
        return (places / size * len(self.weights)).long().clamp(max=len(self.weights) - 1)

    def __call__(
        self, guess: torch.Tensor, clean: torch.Tensor, noise: torch.Tensor, steps: torch.Tensor, batch: Encoded
    ) -> dict[str, torch.Tensor]:
        """`loss` of a guess of v [B, C, 16, 16], and of what it is made: `v` (plain error) and `unlike`.

        `steps` ascend as `steps` draws them. `unlike` is how differently `LatentFaces` sees the guessed and the true
        picture, of all but the noisier steps.
        """
        error = (guess.float() - self.schedule.get_velocity(clean, noise, steps)).square()
        cells = cell_weights(batch.face.float(), batch.hair.float())
        weighted = (error * cells * self.weights[steps, None, None, None]).mean()
        clear = slice(len(steps) * LIKENESS_BELOW // len(self.weights))  # known without a look at the device
        noisy = self.schedule.add_noise(clean, noise, steps)
        # sqrt(a) noisy - sqrt(1 - a) v is the picture, as sqrt(a) noise - sqrt(1 - a) picture is v
        shown = self.schedule.get_velocity(guess.float(), noisy, steps)[clear]
        with working_precision(self.device):
            apart = distance(self.faces, shown, clean[clear])
        unlike = (self.signal[steps[clear]] * apart).sum() / len(steps)
        return {"loss": weighted + LIKENESS_WEIGHT * unlike, "v": error.mean(), "unlike": unlike}
