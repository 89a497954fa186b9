"""Real trainings: an AdamW that has lost its bias correction, or two thirds of its rate, turns the check red."""

import pytest
from click.testing import CliRunner

from bench.cli import cli

# 160 steps of 32 of 512 pairs without noise. AdamW at 3e-3 reaches R@1 40 ± 2 %, without bias correction
# 10 ± 4 %, at 0.9e-3 19 ± 2 %.
PROTOCOL = """
extends = "mini"
epochs = 10
seeds = 4
evaluate_every = 5
[workload.dataset_options]
training = 512
validation = 32
test = 100
image_size = 16
audio_size = 16
noise = 0.02
pixel_noise = 0.0
clutter = 0.0
[workload.model_options]
text_embed_dim = 32
latent_dim = 32
image_size = 16
num_heads = 2
memory_size = 16
audio_channels = [8, 8, 16, 16]
dropout = 0.0
"""
BROKEN = """
import torch

class WithoutBiasCorrection(torch.optim.Optimizer):
    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for w in (w for w in group["params"] if w.grad is not None):
                state = self.state[w]
                if not state:
                    state["m"], state["v"] = torch.zeros_like(w), torch.zeros_like(w)
                state["m"].lerp_(w.grad, 1 - beta1)
                state["v"].mul_(beta2).addcmul_(w.grad, w.grad, value=1 - beta2)
                w.mul_(1 - group["lr"] * group["weight_decay"])
                w.addcdiv_(state["m"], state["v"].sqrt().add_(group["eps"]), value=-group["lr"])
"""


def bench(folder, *arguments):
    return CliRunner().invoke(cli, [*map(str, arguments), "--results", str(folder / "results")], catch_exceptions=False)


def run(folder, rate, study):
    return bench(folder, "run", "-o", "adamw", "-p", folder / "small.toml", "-O", f"adamw.lr={rate}", "--study", study,
                 "--workers", 1)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A baseline of AdamW, and a broken AdamW in a file."""
    path = tmp_path_factory.mktemp("red")
    (path / "small.toml").write_text(PROTOCOL)
    (path / "broken.py").write_text(BROKEN)
    assert run(path, 3e-3, "main").exit_code == 0
    assert bench(path, "baseline", "update", "main", "--output", path / "baseline.json").exit_code == 0
    return path


@pytest.mark.slow
def test_adamw_without_bias_correction_turns_the_check_red(folder):
    broken = f"adamw={folder / 'broken.py'}:WithoutBiasCorrection"
    done = bench(folder, "check", "-b", folder / "baseline.json", "--run", "-o", broken, "--workers", 1)
    assert (done.exit_code, "FAIL: level" in done.stdout) == (1, True), done.output


@pytest.mark.slow
def test_adamw_at_a_third_of_its_rate_turns_the_check_red(folder):
    assert run(folder, 9e-4, "slower").exit_code == 0
    done = bench(folder, "check", "slower", "-b", folder / "baseline.json")
    assert (done.exit_code, "FAIL: level" in done.stdout) == (1, True), done.output
    assert "lr 0.003 → 0.0009" in done.stdout
