"""NL-MM: attention against a plain loop, what tokens may see, the continuum memory, the adapter, sizes, roles."""

import math
import re

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from bench.cadence import by_level
from bench.models.dropout import DropoutStream
from bench.models.multimodal_memory import MODALITIES
from bench.models.nlmm import ROLES, NestedMemoryNetwork
from bench.models.nlmm_blocks import (
    ContinuumMemory,
    FastWeightAttention,
    all_sum,
    initial_scale,
    prefix_sum,
    residual_scale,
    running_mean,
)
from bench.models.nlmm_encoders import TextTokens
from bench.protocols import PROTOCOLS
from bench.spec import Role
from bench.workload import roled_parameters
from bench.workloads import NLMM_POSITIONS, NLMM_SIZES, WORKLOADS

SMALL = {"vocab_size": 40, "text_seq_len": 10, "image_size": 16, "patch_size": 8, "audio_frames": 12, "latent_dim": 24,
         "num_heads": 3, "depth": (2, 1, 1), "mult": 2, "levels": 2, "memory_size": 4, "adapter_rank": 4,
         "image_positions": 4, "scale_width": 8}  # fmt: skip


def build(**options) -> NestedMemoryNetwork:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return NestedMemoryNetwork(**{**SMALL, **options}).double().eval()


def randn(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make_inputs(batch: int = 4) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(2)
    inputs = {"text": torch.randint(0, 40, (batch, 10), generator=generator), "image": randn(batch, 3, 16, 16),
              "audio": randn(batch, 1, 6, 12)}  # fmt: skip
    lengths, frames = torch.tensor([10, 1, 4, 7])[:batch, None], torch.tensor([12, 2, 1, 9])[:batch, None]
    return inputs, {"text": torch.arange(10) < lengths, "audio": torch.arange(12) < frames}


def written_and_read(q_BHLK: Tensor, k_BHLK: Tensor, v_BHLK: Tensor) -> Tensor:
    """The definition: M ← M + v kᵀ, y = M q, token after token."""
    outputs = []
    B, H, L, K = q_BHLK.shape
    for b in range(B):
        for h in range(H):
            M = torch.zeros(K, K, dtype=q_BHLK.dtype)
            for t in range(L):
                M = M + torch.outer(v_BHLK[b, h, t], k_BHLK[b, h, t])
                outputs.append(M @ q_BHLK[b, h, t])
    return torch.stack(outputs).view(B, H, L, K)


@given(length=st.integers(1, 13), chunk=st.integers(1, 14))
@settings(max_examples=40, deadline=None)
def test_prefix_sums_over_chunks_are_the_loop_over_tokens(length: int, chunk: int):
    q, k, v = (randn(2, 2, length, 3, seed=seed) for seed in range(3))
    torch.testing.assert_close(prefix_sum(q, k, v, chunk), written_and_read(q, k, v), rtol=1e-12, atol=1e-12)


def test_the_last_token_of_the_loop_has_seen_what_the_whole_sum_holds():
    q, k, v = (randn(2, 2, 7, 3, seed=seed) for seed in range(3))
    last = written_and_read(q[:, :, -1:].expand_as(q), k, v)[:, :, -1]
    torch.testing.assert_close(all_sum(q, k, v)[:, :, -1], last, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("causal", [False, True])
def test_attention_is_the_loop_with_normalised_and_scaled_queries_keys_and_values(causal: bool):
    """All of the module by its definition, one sample at a time, without its padding."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        attention = FastWeightAttention(12, 2, 0.5, scale_width=5).double()
    x_BLD, mask_BL1 = randn(2, 6, 12), torch.ones(2, 6, 1, dtype=torch.float64)
    mask_BL1[1, 4:] = 0
    found = attention(x_BLD, mask_BL1, causal=causal)
    assert attention.scales is not None
    for b, length in ((0, 6), (1, 4)):
        x_LD = x_BLD[b, :length]
        q, k, v = (F.linear(x_LD, w).view(length, 2, 6) for w in attention.qkv.weight.chunk(3))
        q, k = (x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() for x in (q, k))
        means = [x_LD[: t + 1].mean(0) if causal else x_LD.mean(0) for t in range(length)]
        scale_LPH = 1 + torch.tanh(attention.scales(torch.stack(means))).view(length, 3, 2)
        q, k, v = (x * scale_LPH[:, i, :, None] for i, x in enumerate((q, k, v)))
        y = torch.zeros(length, 2, 6, dtype=torch.float64)
        for t in range(length):
            for s in range(t + 1 if causal else length):
                y[t] += v[s] * (k[s] * q[t]).sum(-1, keepdim=True) / math.sqrt(6)
        expected = F.linear(y.flatten(1), attention.output.weight)
        torch.testing.assert_close(found[b, :length], expected, rtol=1e-10, atol=1e-10)


def test_running_mean_counts_real_tokens_only():
    x_BLD = torch.tensor([[[2.0], [4.0], [9.0]]])
    assert running_mean(x_BLD, None).flatten().tolist() == [2, 3, 5]
    assert running_mean(x_BLD, torch.tensor([[[1.0], [1.0], [0.0]]])).flatten().tolist() == [2, 3, 3]


def test_later_tokens_do_not_change_earlier_ones():
    network, (inputs, _) = build(), make_inputs()
    tokens_BLD = network.encode("text", inputs["text"], None, nn.Identity())
    for t in range(1, 10):
        changed = inputs["text"].clone()
        changed[:, t:] = (changed[:, t:] + 7) % 40
        other = network.encode("text", changed, None, nn.Identity())
        torch.testing.assert_close(other[:, :t], tokens_BLD[:, :t], rtol=0, atol=1e-12)
        assert (other[:, t:] - tokens_BLD[:, t:]).abs().max() > 1e-3


def test_image_and_audio_tokens_see_all_others():
    network, (inputs, _) = build(), make_inputs()
    for name, last in (("image", (..., slice(8, None))), ("audio", (..., slice(9, None)))):
        changed = inputs[name].clone()
        changed[last] += 1
        before, after = (network.encode(name, x, None, nn.Identity())[:, 0] for x in (inputs[name], changed))
        assert (before - after).abs().max() > 1e-6


def test_padding_does_not_matter():
    """Neither what stands in it nor how much of it there is, also where nearly all is padding."""
    network, (inputs, masks) = build(), make_inputs()
    whole = network(inputs, masks)
    text = torch.where(masks["text"], inputs["text"], 39 - inputs["text"])
    audio = inputs["audio"].where(masks["audio"][:, None, None], torch.full((), 50.0, dtype=torch.float64))
    other = network({**inputs, "text": text, "audio": audio}, masks)
    alone = network({"text": inputs["text"][2:3, :4], "audio": inputs["audio"][3:, :, :, :9]})
    for name in MODALITIES:
        torch.testing.assert_close(other[name], whole[name], rtol=0, atol=1e-12)
    torch.testing.assert_close(alone["text"][0], whole["text"][2], rtol=0, atol=1e-12)
    torch.testing.assert_close(alone["audio"][0], whole["audio"][3], rtol=0, atol=1e-12)


def test_an_empty_text_has_a_finite_embedding_and_gradients():
    network, (inputs, masks) = build().train(), make_inputs()
    masks["text"][0] = False
    embeddings = network(inputs, masks)
    sum(x[:, 0].sum() for x in embeddings.values()).backward()  # pyright: ignore[reportAttributeAccessIssue]
    assert all(p.grad.isfinite().all() for p in network.parameters() if p.grad is not None)


@pytest.mark.parametrize("present", [("text",), ("image", "audio"), ("text", "image")])
def test_each_modality_is_seen_alone(present: tuple[str, ...]):
    network, (inputs, masks) = build(), make_inputs()
    whole, part = network(inputs, masks), network({name: inputs[name] for name in present}, masks)
    assert tuple(part) == present
    for name in present:
        torch.testing.assert_close(part[name], whole[name], rtol=0, atol=1e-12)
        torch.testing.assert_close(part[name].norm(dim=1), torch.ones(4, dtype=torch.float64))


def test_chain_and_sum_of_the_continuum_memory():
    """chain: x + a(x) + b(x + a(x)); sum: x + a(x) + b(x). With one level they are the same."""
    x = randn(5, 6)
    for composition in ("chain", "sum"):
        with torch.random.fork_rng():
            torch.manual_seed(4)
            memory = ContinuumMemory(6, 2, 2, composition, 1.0).double()
        a, b = memory.levels.values()
        expected = a(x) + b(x + a(x)) if composition == "chain" else a(x) + b(x)
        torch.testing.assert_close(memory(x), expected)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        one = ContinuumMemory(6, 2, 1, "chain", 1.0).double()
    chained = one(x)
    one.composition = "sum"
    assert torch.equal(one(x), chained)


def test_residual_and_initial_scales_are_deepnets():
    """Depth 8: α = 16^¼ = 2, β = 64^−¼ = 0.3536; values, outputs and CMS start β times as long as queries and keys."""
    assert (residual_scale(8), round(initial_scale(8), 4)) == (2.0, 0.3536)
    with torch.random.fork_rng():
        torch.manual_seed(6)
        attention = FastWeightAttention(256, 4, initial_scale(8))
        memory = ContinuumMemory(256, 1, 1, "sum", initial_scale(8))
    q, k, v = (part.std().item() * 16 for part in attention.qkv.weight.chunk(3))  # Xavier of a square: 1/√256
    deep = [v, attention.output.weight.std().item() * 16]
    deep += [p.std().item() * 16 for name, p in memory.named_parameters() if name.endswith("weight")]
    assert [q, k] == pytest.approx([1, 1], rel=0.02)
    assert deep == pytest.approx([0.3536] * 4, rel=0.02)


def test_the_adapter_is_the_identity_at_first_and_learns_by_the_delta_rule():
    """A row alone, from W = 0: W h = η z, z what the latent memory has read; the second step removes η of the rest."""
    network, (inputs, _) = build(), make_inputs(1)
    inputs = {"image": inputs["image"]}
    (tensor,) = network.test_time_tensors()
    plain = network(inputs)["image"]
    pooled, latent = network._pooled(inputs, {}, nn.Identity())
    key = F.gelu(pooled @ network.adapter_in.T)
    assert torch.equal(network._adapted(pooled), pooled) and not tensor.any()
    for learnt in (0.1, 0.19, 0.271):
        network.forward_adapting(inputs)
        torch.testing.assert_close(key @ tensor.T, learnt * latent, rtol=1e-9, atol=1e-12)
    assert (network(inputs)["image"] - plain).abs().max() > 1e-4


def test_adapting_embeds_before_it_learns_and_changes_nothing_else():
    network, (inputs, masks) = build(), make_inputs()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    plain, adapting = network(inputs, masks), network.forward_adapting(inputs, masks)
    for name in MODALITIES:
        torch.testing.assert_close(adapting[name], plain[name], rtol=0, atol=1e-12)
    assert all(not x.requires_grad for x in adapting.values())
    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"adapter_out"}


def test_language_model_targets_are_the_next_tokens():
    """Against logits worked out token by token; what stands in padding, and the last token's output, do not count."""
    network, (inputs, masks) = build(), make_inputs()
    text, mask = inputs["text"], masks["text"]
    embedding = network.tokens["text"]
    assert isinstance(embedding, TextTokens)
    tokens = network.encode("text", text, mask, nn.Identity())
    losses = [
        -torch.log_softmax(embedding.embedding.weight @ tokens[b, t], dim=0)[text[b, t + 1]]
        for b in range(4)
        for t in range(int(mask[b].sum()) - 1)
    ]
    assert len(losses) == 9 + 0 + 3 + 6
    torch.testing.assert_close(network.language_model_loss(text, mask), torch.stack(losses).mean())
    other = torch.where(mask, text, 39 - text)
    torch.testing.assert_close(network.language_model_loss(other, mask), network.language_model_loss(text, mask))
    assert network.language_model_loss(text[:, :1], None).item() == 0


@pytest.mark.parametrize(
    ("size", "count", "levels"),
    [("nano", 13_177_836, 2), ("tiny", 165_602_948, 3), ("base", 455_166_048, 3)],
)
def test_parameter_counts(size: str, count: int, levels: int):
    """13.2 M, 165.6 M and 455 M, in either form of the continuum memory; and the share of its levels."""
    options = {**NLMM_SIZES[size], **NLMM_POSITIONS, "vocab_size": 32_000, "image_size": 224, "patch_size": 16}
    for composition in ("chain", "sum"):
        with torch.device("meta"):
            network = NestedMemoryNetwork(**options, cms=composition)  # pyright: ignore[reportArgumentType]
        assert sum(p.numel() for p in network.parameters()) == count
    d, hidden, blocks = options["latent_dim"], options["mult"] * options["latent_dim"], sum(options["depth"]) + 1
    of_levels = sum(p.numel() for name, p in network.named_parameters() if "cms.levels." in name)
    assert of_levels == levels * blocks * (2 * d * hidden + hidden + d)


@pytest.mark.parametrize("name", ["nlmm", "nlmm_mini"])
def test_the_built_in_levels_divide_the_network(name: str):
    """Each level of the continuum memory is in its own; all else, and the first, in the first."""
    protocol = PROTOCOLS[name]
    assert protocol.cadence is not None
    options = protocol.workload.model_options
    with torch.device("meta"):
        network = NestedMemoryNetwork(**options)  # pyright: ignore[reportArgumentType]
    roled = roled_parameters(network, ROLES)
    for i, own in enumerate(by_level(protocol.cadence, roled)):
        slow = {p.name for p in roled if re.search(rf"cms\.levels\.level{i}\.", p.name)}
        names = {p.name for p in own}
        assert slow and (names == slow if i else slow < names and "head.weight" in names)
    assert [level.lr_scale for level in protocol.cadence] == [1, 0.5, 0.25]
    steps = {"nlmm": 30 * (30_000 // 64), "nlmm_mini": 10 * (1000 // 32)}[name]
    assert steps >= 4 * max(level.chunk for level in protocol.cadence)


def test_roles():
    roles = {p.name: p.role for p in roled_parameters(build(), ROLES)}
    assert roles["latents"] is Role.MEMORY_SLOTS
    assert roles["tokens.text.embedding.weight"] is roles["tokens.image.positions"] is Role.EMBEDDING
    assert roles["tokens.audio.convolutions.1.weight"] is Role.CONVOLUTION
    assert roles["blocks.text.1.attention.qkv.weight"] is Role.HIDDEN_MATRIX
    assert roles["blocks.text.1.cms.levels.level1.2.weight"] is Role.HIDDEN_MATRIX
    assert roles["blocks.image.0.cms_gain"] is Role.NORM and roles["head.weight"] is Role.HEAD
    assert "adapter_in" not in roles and "adapter_out" not in roles  # test time's, not training's


def test_every_trained_parameter_gets_a_gradient_and_dropout_is_drawn_from_the_stream():
    network, (inputs, masks) = build(dropout=0.2).train(), make_inputs()
    streams = [DropoutStream(0.2, seed) for seed in (0, 0, 1)]
    for stream in streams:
        stream.start_step(0)
    first, same, other = (network(inputs, masks, stream) for stream in streams)
    assert all(
        torch.equal(first[name], same[name]) and not torch.equal(first[name], other[name]) for name in MODALITIES
    )
    torch.stack([first["text"][:, 0] * first["image"][:, 1], first["audio"][:, 2]]).sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in network.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 20}, "image_size is 20; allowed are multiples of patch_size 8"),
        ({"num_heads": 5}, "latent_dim is 24; allowed are multiples of num_heads 5"),
        ({"depth": (1, 2)}, r"depth is \[1, 2\]; allowed are three counts >= 1: text, image, audio"),
        ({"cms": "tree"}, "cms is 'tree'; allowed are 'chain' and 'sum'"),
        ({"levels": 0}, "levels is 0; allowed is 1 or more"),
    ],
)
def test_options_that_do_not_suit_are_named(options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        build(**options)
    with pytest.raises(ValueError, match="11 tokens are more than the 10 that have a position"):
        build()({"text": torch.zeros(1, 11, dtype=torch.int64)})


def test_workloads_fit_their_data():
    WORKLOADS["nlmm_small"].check(None)
