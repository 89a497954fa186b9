"""Techniques by name: what is on is hashed, what is off changes nothing, what is wrong is one line."""

import json

import pytest

from bench.errors import UsageError
from bench.protocol import Protocol
from bench.protocols import PROTOCOLS, changed
from bench.techniques.options import Techniques, defaults, description
from bench.techniques.selection import with_techniques

MINI = PROTOCOLS["mini"]


def test_a_protocol_without_techniques_keeps_its_hash():
    assert MINI.hash == "5629038cb352"
    assert "techniques" not in MINI.canonical_json() and "schedule_options" not in MINI.canonical_json()
    assert changed(MINI, {"techniques": {}}, "test").hash == MINI.hash


def test_every_option_that_is_on_is_part_of_the_hash():
    hashes = {MINI.hash}
    for texts in (["queue"], ["queue.size=64"], ["mixup"], ["queue", "mixup"], ["mixup.mode=cutmix"]):
        hashes.add(with_techniques(MINI, texts).hash)
    assert len(hashes) == 6
    assert with_techniques(MINI, ["queue", "queue.size=64"]).hash == with_techniques(MINI, ["queue.size=64"]).hash
    assert with_techniques(MINI, ["queue", "mixup"]).hash == with_techniques(MINI, ["mixup", "queue"]).hash
    assert json.loads(with_techniques(MINI, ["queue"]).canonical_json())["techniques"] == {"queue": {"size": 16384}}


def test_every_technique_is_described_and_has_its_options():
    for name in Techniques.model_fields:
        assert description(name).endswith((".", "loss", "latent.")), name
        assert isinstance(defaults(name), dict)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("queu", r"^--technique: unknown technique 'queu': did you mean 'queue'\?"),
        ("queue.size", r"^--technique 'queue.size': allowed is NAME or NAME.KEY=VALUE, as mixup.alpha=0.4"),
        ("queue=64", r"^--technique 'queue=64': allowed is NAME"),
        ("queue.size=", r"^--technique 'queue.size=': allowed is NAME"),
        ("queue.size=0", r"^--technique queue.size=0: techniques.queue.size is 0: .* greater than or equal to 1"),
        ("queue.sise=4", r"^--technique queue.sise=4: techniques.queue.sise is 4: Extra inputs"),
        ("mixup.mode=blend", r"techniques.mixup.mode is 'blend': Input should be 'mixup' or 'cutmix'"),
        ("mixup.alpha=NaN", r"techniques.mixup.alpha"),
    ],
)
def test_bad_input_is_one_line(text: str, message: str):
    with pytest.raises(UsageError, match=message) as error:
        with_techniques(MINI, [text])
    assert "\n" not in str(error.value)


def test_techniques_that_exclude_each_other_are_named():
    with pytest.raises(UsageError, match="supervised and siglip exclude each other; allowed is one of them"):
        with_techniques(MINI, ["siglip", "supervised"])


def test_a_file_says_it_in_tables(tmp_path):
    from bench.protocols import load_protocol

    path = tmp_path / "mine.toml"
    path.write_text('extends = "mini"\n[techniques.queue]\nsize = 64\n[techniques.mixup]\n')
    assert load_protocol(str(path)).hash == with_techniques(MINI, ["queue.size=64", "mixup"]).hash


def test_several_processes_of_one_run_have_no_techniques(tiny: Protocol, tmp_path):
    from bench.runner import prepare

    with pytest.raises(UsageError, match=r"^--parallel ddp: techniques queue; allowed are none,"):
        prepare("sgd", protocol=tiny, techniques=["queue"], results=tmp_path, parallel="ddp", workers=2)
