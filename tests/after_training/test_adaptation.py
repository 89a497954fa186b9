"""Test-time training: known effects of a network made for it, memories restored to the last bit, and the command."""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial

import pytest
import torch
from kept_weights import CPU
from torch import Tensor, nn

from bench import test_time
from bench.datasets.samples import Dataset, HeldOut, Samples
from bench.errors import UsageError
from bench.models.multimodal_memory import NO_DROPOUT, SLOT_RATE, MultiModalMemoryNetwork
from bench.protocol import Protocol
from bench.protocols import changed
from bench.seeding import torch_seeded, weights_fingerprint
from bench.step import autocast

ITEMS = 8


class Directions(Dataset):
    """Item i has the text i and a spectrogram of i + 1."""

    @property
    def training_size(self) -> int:
        return 0

    def training(self, epoch: int, noise_seed: int) -> Samples:
        raise AssertionError

    def held_out(self, split: HeldOut) -> Samples:
        i = torch.arange(ITEMS)
        return Samples(label_N=i, match_N=i, text_NL=i[:, None], audio_N1FT=(i + 1.0).view(-1, 1, 1, 1))


class Learner(nn.Module):
    """Texts are unit vectors. Clips are too once the one weight is 1, which an update makes it; before, they are all
    the first. `update` is what an update sets the weight to."""

    def __init__(self, update: float = 1.0) -> None:
        super().__init__()
        self.weight, self.update = nn.Parameter(torch.zeros(1)), update

    def forward(self, inputs: Mapping[str, Tensor], masks: Mapping[str, Tensor], dropout: object) -> dict[str, Tensor]:
        own = torch.eye(ITEMS)[inputs["text"][:, 0]]
        place = ((inputs["audio"].flatten() - 1) * self.weight).long()
        return {"text": own, "audio": torch.eye(ITEMS)[place]}

    def test_time_tensors(self) -> list[Tensor]:
        return [self.weight]

    def forward_adapting(self, inputs: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        found = self.forward(inputs, masks, NO_DROPOUT)
        with torch.no_grad():
            self.weight.fill_(self.update)
        return found


effect = partial(test_time.test_time_effect, dataset=Directions(), split="test", precision=nullcontext)


def test_the_effect_of_a_network_that_learns_after_its_first_batch():
    """Off: all clips are the first; clip to text finds 1 of 8; text 0 has all clips tied with it alone right, 1/8, the
    others have all clips equal too: 1/8. On: with batches of 2, clips 0 and 1 are the first, the other six their own:
    clip to text 7/8; text 0 has two equal clips, 1/2; text 1's clip is at right angles, as are all of them: 1/8;
    texts 2 to 7 find theirs: (0.5 + 0.125 + 6) / 8. ‖Δ‖ = 1."""
    network = Learner()
    found = effect(network, metric="avg_r1", batch=2)
    assert found.off == pytest.approx(100 / 8)
    assert found.on == pytest.approx(100 * (7 / 8 + 6.625 / 8) / 2)
    assert found.difference == pytest.approx(found.on - found.off)
    assert found.low <= found.difference <= found.high and found.low > 0
    assert (found.change, found.queries, found.batch) == (1.0, 16, 2)
    assert effect(network, metric="a2t_r1", batch=2).on == pytest.approx(100 * 7 / 8)
    assert network.weight.item() == 0.0


@pytest.mark.parametrize(
    ("network", "batch", "said"),
    [(Learner(0.0), 2, "nothing of Learner has changed over the test split: ‖Δ‖ is 0"),
     (nn.Linear(1, 1), 2, "Linear has nothing that changes at test time"),
     (Learner(), 8, "the test split's 8 items are one batch of 8"),
     (Learner(float("nan")), 9, "one batch of 9")],
)  # fmt: skip
def test_an_effect_that_cannot_be_is_an_error_in_a_line(network: nn.Module, batch: int, said: str):
    with pytest.raises(UsageError) as error:
        effect(network, batch=batch)
    assert said in str(error.value) and "\n" not in str(error.value)


def built(protocol: Protocol) -> tuple[MultiModalMemoryNetwork, Dataset]:
    dataset = protocol.workload.build_dataset(None, CPU)
    with torch_seeded(1):
        network = protocol.workload.build_model(dataset.network_options)
    assert isinstance(network, MultiModalMemoryNetwork)
    return network.train(), dataset


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_the_memories_change_and_are_restored_to_the_last_bit(tiny: Protocol, precision: str):
    protocol = changed(tiny, {"precision": precision}, "test")
    network, dataset = built(protocol)
    before = weights_fingerprint(network)
    found = test_time.test_time_effect(network, dataset, "test", partial(autocast, protocol, CPU), batch=8)
    assert found.change > 0 and found.queries == 72
    assert weights_fingerprint(network) == before and network.training
    assert found == test_time.test_time_effect(network, dataset, "test", partial(autocast, protocol, CPU), batch=8)


def test_they_are_restored_also_where_it_fails(tiny: Protocol, monkeypatch: pytest.MonkeyPatch):
    network, dataset = built(tiny)
    before, own, calls = weights_fingerprint(network), network.forward_adapting, []

    def failing(inputs: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        found = own(inputs, masks)
        calls.append(weights_fingerprint(network) != before)
        if len(calls) == 2:
            raise MemoryError
        return found

    monkeypatch.setattr(network, "forward_adapting", failing)
    with pytest.raises(MemoryError):
        test_time.test_time_effect(network, dataset, "test", nullcontext, batch=8)
    assert calls == [True, True] and weights_fingerprint(network) == before


def test_a_batch_is_embedded_first_and_taken_in_then(tiny: Protocol):
    """slot ← slot·(1 − η·gate) + η·gate·value of the top-k slots by slots·c, c the mean of what the memory was given:
    worked out here slot by slot."""
    network, dataset = built(tiny)
    batch = dataset.held_out("test").take(slice(0, 5))
    network.eval()
    with torch.no_grad():
        expected = network(batch.inputs(), batch.masks(), NO_DROPOUT)
        contents = network._contents(batch.inputs(), batch.masks(), NO_DROPOUT)
        fused = network.fusion(network.encode(batch.inputs(), batch.masks(), NO_DROPOUT), network.type_vectors,
                               NO_DROPOUT)  # fmt: skip
        wanted = [updated(network.memory(name), contents[name].mean(dim=0)) for name in ("text", "image", "audio")]
        wanted.append(updated(network.central, fused.mean(dim=0)))
        found = network.forward_adapting(batch.inputs(), batch.masks())
    for name, x in expected.items():
        torch.testing.assert_close(found[name], x, rtol=0, atol=0)
    for slots, own in zip(network.test_time_tensors(), wanted, strict=True):
        torch.testing.assert_close(slots, own, rtol=0, atol=1e-6)


def updated(memory, content: Tensor) -> Tensor:
    slots = memory.slots.detach().clone()
    scores = [(float(slot @ content), i) for i, slot in enumerate(slots)]
    for _, i in sorted(scores, reverse=True)[: memory.top_k]:
        pair = torch.cat([slots[i], content])
        gate = SLOT_RATE * torch.sigmoid(memory.gate_mlp(pair))
        slots[i] = slots[i] * (1 - gate) + gate * memory.value_mlp(pair)
    return slots


def test_the_command_shows_the_effect_of_each_file_and_over_all(bench, study):
    files: Sequence = [folder / "last.pt" for folder in study.runs]
    content = [path.read_bytes() for path in files]
    done = bench("evaluate", *files, "--test-time-training")
    assert done.code == 0, done.err
    assert max(map(len, done.out.splitlines())) <= 80
    assert "Test-time training: average R@1 without and with" in done.out and "mean difference over 2 files" in done.out
    found = json.loads(bench("evaluate", *files, "--test-time-training", "--json").out)
    for row, each in zip(found["rows"], found["test_time"], strict=False):
        assert each["change"] > 0 and each["batch"] == 8
        assert each["difference"] == pytest.approx(each["on"] - each["off"])
        assert each["off"] == pytest.approx(row["metrics"]["avg_r1"])  # near ties may fall otherwise than in a bank
    differences = [each["difference"] for each in found["test_time"]]
    assert found["over_seeds"]["mean"] == pytest.approx(sum(differences) / 2)
    assert [path.read_bytes() for path in files] == content


def test_the_command_says_where_there_is_nothing_to_adapt(bench: Callable, study, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(MultiModalMemoryNetwork, "forward_adapting", lambda self, inputs, masks: self(inputs, masks))
    done = bench("evaluate", study.runs[0] / "last.pt", "--test-time-training")
    assert done.code == 2 and done.err.count("\n") == 1 and "‖Δ‖ is 0; allowed is more than 0" in done.err
