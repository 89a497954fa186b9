"""The full network: parameter counts, the fast forms against the straightforward one, dropout, roles, slot updates."""

from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.errors import UsageError
from bench.models import multimodal_memory_reference as reference
from bench.models.dropout import DropoutStream
from bench.models.multimodal_memory import MODALITIES, ROLES, Memory, MultiModalMemoryNetwork
from bench.spec import Role
from bench.workload import roled_parameters
from bench.workloads import WORKLOADS

STUDY = WORKLOADS["documents"].model_options
FLICKR8K = {"vocab_size": 34, "text_embed_dim": 512, "text_seq_len": 77, "image_size": 224, "patch_size": 16,
            "latent_dim": 512, "num_layers": 4, "memory_size": 128, "num_heads": 8}  # fmt: skip
IMPROVED = FLICKR8K | {
    "vocab_size": 8192, "text_embed_dim": 768, "latent_dim": 768, "num_layers": 6, "memory_size": 256
}  # fmt: skip
SMALL = {"vocab_size": 50, "text_embed_dim": 32, "text_seq_len": 12, "image_size": 16, "patch_size": 8,
         "latent_dim": 32, "num_layers": 2, "memory_size": 16, "num_heads": 4,
         "audio_channels": (4, 8, 8, 16)}  # fmt: skip


def build(options: dict, seed: int = 0) -> MultiModalMemoryNetwork:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return MultiModalMemoryNetwork(**options)


def make_inputs(batch: int = 6) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    inputs = {
        "text": torch.randint(0, 50, (batch, 10), generator=generator),
        "image": torch.randn(batch, 3, 16, 16, generator=generator, dtype=torch.float64),
        "audio": torch.randn(batch, 1, 16, 40, generator=generator, dtype=torch.float64),
    }
    mask = torch.rand(batch, 10, generator=generator) < 0.7
    mask[:, 0] = True
    frames = torch.tensor([1, 40, 16, 17, 32, 33])[:batch]
    return inputs, {"text": mask, "audio": torch.arange(40) < frames[:, None]}


def contrastive_loss(embeddings: dict[str, Tensor]) -> Tensor:
    first, second, third = (F.normalize(x, dim=1) for x in embeddings.values())
    target = torch.arange(len(first))
    return sum((F.cross_entropy(a @ b.T / 0.07, target) for a, b in ((first, second), (first, third), (second, third))),
               start=torch.zeros((), dtype=first.dtype))  # fmt: skip


@pytest.mark.parametrize(
    ("options", "total", "text", "image", "audio", "memories", "fusion", "decoders", "idle"),
    [
        (STUDY, 10_686_592, 2_633_984, 2_436_096, 1_683_584, 2_676_736, 528_128, 595_200, 2_176_256),
        (FLICKR8K, 43_269_504, 12_667_392, 13_105_664, 1_815_424, 10_678_272, 2_104_832, 2_370_048, 8_677_888),
        (IMPROVED, 129_465_216, 48_879_360, 43_271_424, 1_947_264, 24_127_488, 4_730_112, 5_324_544, 19_504_896),
    ],
)
def test_parameter_counts_are_exact(options, total, text, image, audio, memories, fusion, decoders, idle):
    with torch.device("meta"):
        network = MultiModalMemoryNetwork(**options)

    def count(*modules: nn.Module) -> int:
        return sum(p.numel() for module in modules for p in module.parameters())

    slot_updates = [m for memory in (*network.memories.values(), network.central)
                    for m in (memory.gate_mlp, memory.value_mlp)]  # fmt: skip
    assert count(network) == total
    assert count(network.text_encoder) == text
    assert count(network.image_encoder) == image
    assert count(network.audio_encoder) == audio
    assert count(network.memories, network.central) == memories
    assert count(network.fusion) == fusion
    assert count(network.decoders) == decoders
    assert count(network.decoders, *slot_updates) == idle


def test_exactly_the_decoders_and_slot_updates_get_no_gradient():
    network, (inputs, masks) = build(SMALL).double(), make_inputs()
    contrastive_loss(network(inputs, masks)).backward()
    idle = {name for name, p in network.named_parameters() if p.grad is None}
    assert idle == {n for n, _ in network.named_parameters() if n.startswith("decoders.") or "_mlp." in n}


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_fast_forms_equal_the_straightforward_network(masked: bool, training: bool):
    """Embeddings and all gradients, float64, dropout 0; training mode covers the batch norms' batch statistics."""
    inputs, masks = make_inputs()
    results = []
    for forward in (MultiModalMemoryNetwork.__call__, reference.forward):
        network = build(SMALL | {"dropout": 0.0}).double().train(training)
        embeddings = forward(network, inputs, masks if masked else {})
        contrastive_loss(embeddings).backward()
        results.append((embeddings, {n: p.grad for n, p in network.named_parameters() if p.grad is not None}))
    (fast, fast_gradients), (plain, plain_gradients) = results
    for name in MODALITIES:
        assert (fast[name] - plain[name]).abs().max() < 1e-12
    assert fast_gradients.keys() == plain_gradients.keys()
    for name, gradient in plain_gradients.items():
        assert (fast_gradients[name] - gradient).abs().max() < 1e-12 * max(1, gradient.abs().max()), name


@pytest.mark.parametrize("present", [("text",), ("image", "audio"), ("text", "image")])
def test_a_missing_modality_changes_nothing_for_the_others(present: tuple[str, ...]):
    network, (inputs, masks) = build(SMALL).double().eval(), make_inputs()
    whole = network(inputs, masks)
    part = network({name: inputs[name] for name in present}, masks)
    assert tuple(part) == present
    for name in present:
        torch.testing.assert_close(part[name], whole[name], rtol=0, atol=1e-12)


def test_padding_tokens_do_not_matter():
    network, (inputs, masks) = build(SMALL).double().eval(), make_inputs()
    other = torch.where(masks["text"], inputs["text"], 49 - inputs["text"])
    one, two = (network({"text": text}, masks)["text"] for text in (inputs["text"], other))
    torch.testing.assert_close(one, two, rtol=0, atol=1e-12)


def test_silence_at_the_end_counts_only_without_a_mask():
    """A clip with 128 frames of padding more: the same where the mask says so, not where all is taken as real."""
    network, (inputs, _) = build(SMALL).double().eval(), make_inputs()
    clip, longer = inputs["audio"][:, :, :, :32], F.pad(inputs["audio"][:, :, :, :32], (0, 128))
    real = torch.arange(160).expand(len(clip), -1) < 32
    short = network({"audio": clip})["audio"]
    torch.testing.assert_close(network({"audio": longer}, {"audio": real})["audio"], short, rtol=0, atol=1e-12)
    assert (network({"audio": longer})["audio"] - short).abs().max() > 1e-3


def test_an_empty_text_is_finite():
    network = build(SMALL).eval()
    nothing = {"text": torch.zeros(2, 5, dtype=torch.bool)}
    embedding = network({"text": torch.zeros(2, 5, dtype=torch.int64)}, nothing)["text"]
    assert embedding.isfinite().all()


def test_non_finite_input_stays_visible():
    network, (inputs, _) = build(SMALL).double().eval(), make_inputs()
    inputs["image"][0] = float("nan")
    assert network(inputs)["image"][0].isnan().all()
    assert network(inputs)["image"][1].isfinite().all()


def test_bfloat16_matrices_stay_close():
    network, (inputs, masks) = build(SMALL).eval(), make_inputs()
    single = {name: x.float() if x.is_floating_point() else x for name, x in inputs.items()}
    full = network(single, masks)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = network(single, masks)
    for name in MODALITIES:
        assert half[name].dtype == torch.float32  # the last operation is a norm
        assert F.cosine_similarity(full[name], half[name]).min() > 0.99


def test_every_parameter_has_the_role_its_name_says():
    roles = {p.name: p.role for p in roled_parameters(build(SMALL), ROLES)}
    assert len(roles) == len(list(build(SMALL).parameters()))
    expected = {
        "central.slots": Role.MEMORY_SLOTS,
        "type_vectors": Role.EMBEDDING,
        "image_encoder.cls": Role.EMBEDDING,
        "image_encoder.positions": Role.EMBEDDING,
        "text_encoder.embedding.weight": Role.EMBEDDING,
        "text_encoder.positions_embedding.weight": Role.EMBEDDING,
        "image_encoder.patches.weight": Role.CONVOLUTION,
        "audio_encoder.convolutions.0.weight": Role.CONVOLUTION,
        "audio_encoder.convolutions.0.bias": Role.BIAS,
        "audio_encoder.norms.3.weight": Role.NORM,
        "text_encoder.layers.0.norm1.weight": Role.NORM,
        "text_encoder.layers.1.self_attn.in_proj_weight": Role.HIDDEN_MATRIX,
        "central.attention.in_proj_bias": Role.BIAS,
        "central.gate_mlp.1.weight": Role.NORM,
        "central.gate_mlp.3.weight": Role.HIDDEN_MATRIX,
        "fusion.expand.weight": Role.HIDDEN_MATRIX,
        "fusion.expand_norm.weight": Role.NORM,
        "decoders.text.0.weight": Role.HIDDEN_MATRIX,
        "decoders.text.5.weight": Role.NORM,
        "decoders.text.8.weight": Role.HEAD,
    }
    assert {name: roles[name] for name in expected} == expected
    by_role = Counter(roles.values())
    assert all(by_role[role] for role in Role)


def test_norms_and_matrices_are_told_apart_by_shape_everywhere():
    for p in roled_parameters(build(SMALL), ROLES):
        dimensions = {Role.NORM: 1, Role.BIAS: 1, Role.HIDDEN_MATRIX: 2, Role.HEAD: 2, Role.CONVOLUTION: 4}
        assert p.parameter.ndim == dimensions.get(p.role, p.parameter.ndim), p.name


def test_roles_must_fit_the_network():
    model = nn.Linear(2, 2)
    with pytest.raises(UsageError, match="'bias' matches no role pattern"):
        roled_parameters(model, [("weight$", "hidden_matrix")])
    with pytest.raises(UsageError, match=r"\['slots\$'\] match no parameter of Linear"):
        roled_parameters(model, [("weight$", "hidden_matrix"), ("bias$", "bias"), ("slots$", "memory_slots")])


def test_slot_update_moves_the_top_slots_towards_their_values():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        memory = Memory(slots=6, width=4, heads=2, top_k=2).double()
    content = torch.randn(3, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    before = memory.slots.detach().clone()
    after = memory.updated_slots(content)
    c = content.mean(0)
    top = (before @ c).topk(2).indices
    for s in range(6):
        if s in top:
            pair = torch.cat([before[s], c])
            gate, value = 0.1 * torch.sigmoid(memory.gate_mlp(pair)), memory.value_mlp(pair)
            torch.testing.assert_close(after[s], before[s] * (1 - gate) + gate * value, rtol=0, atol=1e-12)
        else:
            torch.testing.assert_close(after[s], before[s], rtol=0, atol=0)
    torch.testing.assert_close(memory.slots.detach(), before, rtol=0, atol=0)


def test_dropout_keeps_the_expectation_and_drops_the_stated_share():
    stream = DropoutStream(0.1, seed=3)
    stream.start_step(0)
    y = stream(torch.ones(1000, 1000))
    dropped = (y == 0).double().mean().item()
    assert abs(dropped - 0.1) < 5 * (0.09 / 1e6) ** 0.5 + 2**-17  # binomial error and the 16-bit grid
    assert y.unique().numel() == 2
    assert abs(y.double().mean().item() - 1) < 5 * (0.1 / 0.9 / 1e6) ** 0.5


def test_dropout_of_channels_drops_whole_channels():
    stream = DropoutStream(0.5, seed=3)
    stream.start_step(0)
    y = stream.channels(torch.ones(20, 30, 4, 5))
    assert ((y == 0).all(dim=(2, 3)) | (y != 0).all(dim=(2, 3))).all()
    assert 0.4 < (y == 0).double().mean() < 0.6


def test_dropout_of_a_step_depends_on_seed_and_step_alone():
    def masks(seed: int, step: int, other_step: int) -> Tensor:
        stream = DropoutStream(0.5, seed)
        stream.start_step(other_step)
        stream(torch.ones(7))
        stream.start_step(step)
        return stream(torch.ones(100))

    torch.testing.assert_close(masks(1, 5, 0), masks(1, 5, 3), rtol=0, atol=0)
    assert not torch.equal(masks(1, 5, 0), masks(1, 6, 0))
    assert not torch.equal(masks(1, 5, 0), masks(2, 5, 0))


def test_dropout_of_probability_zero_is_the_identity_and_one_is_refused():
    x = torch.ones(3)
    assert DropoutStream(0.0, 0)(x) is x
    with pytest.raises(ValueError, match="probability is 1"):
        DropoutStream(1.0, 0)


def test_image_must_be_whole_patches():
    with pytest.raises(ValueError, match="image_size is 20; allowed are multiples of patch_size 8"):
        MultiModalMemoryNetwork(**SMALL | {"image_size": 20})
