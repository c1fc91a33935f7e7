"""The whole command under damaged and strange files: an answer, a drawn error, one of four exit codes; no traceback."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from collapse_cli.cli.app import run
from collapse_cli.errors import AnalysisError, InputError

SAMPLES = Path(__file__).parent.parent / "sample_checkpoints"
FILES = {
    "safetensors": "healthy_mlp.safetensors",
    "lightning": "lightning.ckpt",
    "index": "sharded/model.safetensors.index.json",
    "config": "healthy_transformer/config.json",
    "adapter": "lora_adapter/adapter_config.json",
    "shard": "sharded/model-00001-of-00003.safetensors",
    "weights": "lora_adapter/adapter_model.safetensors",
}
#: Failures that are drawn: their names, and those of nothing else, may stand in a report.
DRAWN = {kind.__name__ for base in (InputError, AnalysisError) for kind in (base, *base.__subclasses__())}
# what a file says costs much more than how it is read: the fast analyzers suffice where only the reading is at stake
QUICK = "non-finite,shard-index,qk-spectrum,lora-spectrum,optimizer-state,stable-rank"
few = settings(
    max_examples=10,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def survives(path: Path, capsys: pytest.CaptureFixture[str], select: str = "all") -> dict[str, Any]:
    """The report of a scan that ended as it must, whatever the file: with an answer or a drawn error."""
    code = run(["scan", str(path), "--device", "cpu", "--no-progress", "-f", "json", "--select", select])
    captured = capsys.readouterr()
    text = captured.out + captured.err
    assert code in {0, 1, 2, 3}
    assert "Traceback" not in text
    assert "(a bug:" not in text, re.findall(r'[^{}]*\(a bug:[^"]*', text)[:4]
    assert "Warning" not in captured.err
    if not captured.out:
        assert code in {2, 3}
        assert captured.err.startswith(("error: ", "notice: "))
        return {}
    report: dict[str, Any] = json.loads(captured.out)
    assert report["exit_code"] == code
    assert {failure["error"] for subject in report["subjects"] for failure in subject["failures"]} <= DRAWN
    return report


def copied(name: str, folder: Path) -> Path:
    """A fresh copy of a sample, with its folder where it has one; the path of the file to damage."""
    source, target = SAMPLES / FILES[name], folder / "subject"
    shutil.rmtree(target, ignore_errors=True)
    if source.parent == SAMPLES:
        target.mkdir()
        shutil.copy(source, target)
    else:
        shutil.copytree(source.parent, target)
    return target / source.name


@pytest.mark.parametrize("name", FILES)
@few
@given(data=st.data())
def test_damaged_bytes(name: str, data: st.DataObject, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = copied(name, tmp_path)
    content = bytearray(path.read_bytes())
    # headers, and the directory of a zip at its end, are where damage is read as structure
    places = st.integers(0, len(content) - 1) | st.integers(0, min(600, len(content) - 1))
    places |= st.integers(max(0, len(content) - 900), len(content) - 1)
    for place in data.draw(st.lists(places, min_size=1, max_size=8)):
        content[place] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        content = content[: data.draw(places)]
    path.write_bytes(content)
    survives(path.parent, capsys, QUICK)


NONSENSE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.sampled_from([-1, 0, 1, 3, 2**31, 10**400])
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["llama", "gpt2", "LORA", "4", "auto", "float16"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.parametrize("name", ["config", "adapter", "index"])
@few
@given(data=st.data())
def test_nonsense_in_json(name: str, data: st.DataObject, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = copied(name, tmp_path)
    content = json.loads(path.read_text())
    extra = ["text_config", "head_dim", "quantization_config", "rank_pattern", "alpha_pattern", "pad_token_id"]
    for key in data.draw(st.lists(st.sampled_from([*content, *extra]), min_size=1, max_size=4)):
        content[key] = data.draw(NONSENSE)
    if data.draw(st.integers(0, 9)) == 0:
        content = data.draw(NONSENSE)
    path.write_text(json.dumps(content))
    survives(path.parent, capsys, QUICK)


@pytest.mark.parametrize(("name", "key"), [("adapter", "lora_alpha"), ("adapter", "r"), ("config", "rms_norm_eps")])
@pytest.mark.parametrize(
    "value",
    [10**400, -(10**400), float("nan"), float("inf"), True, "4"],
    ids=["huge", "-huge", "nan", "inf", "true", "text"],
)
def test_numbers_that_json_holds_and_floats_do_not(
    name: str, key: str, value: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = copied(name, tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    survives(path.parent, capsys, QUICK + ",normalization-scale")


def gaussian(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


LLAMA = {"model_type": "llama", "hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2}
_LAYER = "model.layers.0."


def llama() -> dict[str, torch.Tensor]:
    shapes = {"q_proj": (32, 32), "k_proj": (16, 32), "v_proj": (16, 32), "o_proj": (32, 32)}
    tensors = {f"{_LAYER}self_attn.{name}.weight": gaussian(*shape) for name, shape in shapes.items()}
    shapes = {"gate_proj": (64, 32), "up_proj": (64, 32), "down_proj": (32, 64)}
    tensors |= {f"{_LAYER}mlp.{name}.weight": gaussian(*shape) for name, shape in shapes.items()}
    tensors |= {f"{_LAYER}input_layernorm.weight": torch.ones(32), "model.norm.weight": torch.ones(32)}
    return tensors | {"model.embed_tokens.weight": gaussian(100, 32), "lm_head.weight": gaussian(100, 32)}


STRANGE: dict[str, Callable[[], torch.Tensor]] = {
    "0-d": lambda: torch.tensor(1.0),
    "1-d": lambda: gaussian(32),
    "5-d": lambda: gaussian(16, 2, 2, 2, 2),
    "no rows": lambda: torch.zeros(0, 32),
    "no columns": lambda: torch.zeros(32, 0),
    "wider": lambda: gaussian(32, 48),
    "narrower": lambda: gaussian(8, 16),
    "one": lambda: gaussian(1, 1),
    "integer": lambda: torch.zeros(32, 32, dtype=torch.int64),
    "boolean": lambda: torch.ones(32, 32, dtype=torch.bool),
    "float64": lambda: gaussian(32, 32).double(),
    "complex": lambda: torch.complex(gaussian(32, 32), gaussian(32, 32)),
    "not a number": lambda: torch.full((32, 32), torch.nan),
    "infinite": lambda: torch.full((32, 32), torch.inf),
    "1e38": lambda: torch.full((32, 32), 3e38),
    "1e-45": lambda: torch.full((32, 32), 1e-45),
    "1e300": lambda: gaussian(32, 32).double() * 1e300,
    "1e-300": lambda: gaussian(32, 32).double() * 1e-300,
    "constant": lambda: torch.ones(32, 32),
    "zero": lambda: torch.zeros(32, 32),
    "both ends": lambda: torch.cat([gaussian(16, 32) * 1e37, gaussian(16, 32) * 1e-37]),
    "fp8": lambda: gaussian(32, 32).to(torch.float8_e4m3fn),
    "largest bf16": lambda: torch.full((32, 32), 3.38e38, dtype=torch.bfloat16),
}


@pytest.mark.parametrize("role", ["q_proj", "k_proj", "o_proj", "up_proj", "layernorm", "embed_tokens", "lm_head"])
@pytest.mark.parametrize("kind", STRANGE)
def test_a_strange_tensor_in_a_role(kind: str, role: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensors = llama()
    name = next(name for name in tensors if role in name)
    tensors[name] = STRANGE[kind]()
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    survives(tmp_path, capsys)


_ADAPTER = "base_model.model.model.layers.0.self_attn.q_proj.lora_"
STRANGER: dict[str, Callable[[], dict[str, torch.Tensor]]] = {
    "names": lambda: dict.fromkeys(
        ["../../passwd", "", ".weight", "..", "#", "a#q", "\n", "\x1b[31m"], gaussian(20, 20)
    ),
    "thousands": lambda: {f"layers.{index}.weight": gaussian(2, 2) for index in range(1000)},
    "all nan": lambda: {name: tensor * torch.nan for name, tensor in llama().items()},
    "all subnormal": lambda: {name: tensor * 1e-39 for name, tensor in llama().items()},
    "A alone": lambda: {_ADAPTER + "A.weight": gaussian(4, 32)},
    "other rank": lambda: {_ADAPTER + "A.weight": gaussian(4, 32), _ADAPTER + "B.weight": gaussian(32, 8)},
    "rank 0": lambda: {_ADAPTER + "A.weight": gaussian(0, 32), _ADAPTER + "B.weight": gaussian(32, 0)},
    "codebook 1x1": lambda: {"quantize.embedding.weight": gaussian(1, 1), "quantize.cluster_size": gaussian(1)},
    "counts": lambda: {
        "quantize.embedding.weight": gaussian(32, 8) * 1e37,
        "quantize.cluster_size": torch.full((32,), torch.nan),
    },
    "router of three": lambda: {"model.layers.0.block_sparse_moe.gate.weight": gaussian(3, 32)},
    "unequal experts": lambda: {
        f"model.layers.0.mlp.experts.{index}.{name}.weight": gaussian(rows, 16)
        for index, rows in enumerate((32, 32, 8))
        for name in ("gate_proj", "up_proj")
    },
    "stacked experts": lambda: {
        "model.layers.0.mlp.experts.gate_up_proj": gaussian(4, 16, 33),
        "model.layers.0.mlp.experts.down_proj": gaussian(3, 0, 16),
    },
    "reparametrised": lambda: {
        "a.weight_g": gaussian(32, 1),
        "a.weight_v": gaussian(16, 32),
        "b.parametrizations.weight.original0": gaussian(3),
        "b.parametrizations.weight.original1": gaussian(32, 32),
        "c.weight_orig": gaussian(32, 32),
        "c.weight_u": gaussian(5),
        "d.weight_orig": torch.zeros(32, 32),
        "d.weight_u": torch.zeros(32),
        "d.weight_v": torch.zeros(32),
    },
    "scales": lambda: {
        "a.weight": gaussian(32, 32).to(torch.float8_e4m3fn),
        "a.weight_scale": torch.tensor(torch.nan),
        "b.weight": gaussian(32, 32).to(torch.float8_e4m3fn),
        "b.weight_scale_inv": gaussian(7, 3),
        "c.weight": gaussian(32, 32).to(torch.float8_e5m2),
        "c.weight_scale": torch.zeros(0),
    },
    "batch norm": lambda: {
        "bn.weight": gaussian(32),
        "bn.bias": gaussian(16),
        "bn.running_mean": gaussian(32, 1),
        "bn.running_var": -torch.ones(32),
        "bn.num_batches_tracked": torch.tensor([1, 2]),
    },
}


@pytest.mark.parametrize("kind", STRANGER)
def test_strange_but_valid_files(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensors = {name: tensor.clone() for name, tensor in STRANGER[kind]().items()}
    if any("lora_" in name for name in tensors):
        save_file(tensors, tmp_path / "adapter_model.safetensors")
        (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 4, "lora_alpha": 8}')
    else:
        save_file(tensors, tmp_path / "model.safetensors")
    survives(tmp_path, capsys)


def _trained() -> dict[str, Any]:
    model = torch.nn.Linear(20, 20)
    optimizer = torch.optim.Adam(model.parameters())
    model(gaussian(4, 20)).sum().backward()
    optimizer.step()
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict()}


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("state", 0, "exp_avg"), gaussian(3)),
        (("state", 0, "exp_avg_sq"), gaussian(20, 3)),
        (("state", 0, "exp_avg_sq"), -torch.ones(20, 20)),
        (("state", 0, "exp_avg_sq"), torch.full((20, 20), torch.nan)),
        (("state", 0, "step"), "x"),
        (("state", 0, "step"), torch.tensor(-3.0)),
        (("state", 0, "step"), float("inf")),
        (("state", 0, "step"), 10**400),
        (("state", 0), [1, 2]),
        (("state",), 3),
        (("param_groups",), [1, "x", None]),
        (("param_groups", 0, "betas"), (2, "x")),
        (("param_groups", 0, "betas"), (1.0, 1.0)),
        (("param_groups", 0, "betas"), (float("nan"), 5)),
        (("param_groups", 0, "eps"), "q"),
        (("param_groups", 0, "eps"), -1.0),
        (("param_groups", 0, "params"), ["a", -1, 99]),
    ],
    ids=lambda value: ".".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_a_strange_optimizer(
    where: tuple[Any, ...], value: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = _trained()
    place = state["optimizer"]
    for key in where[:-1]:
        place = place[key]
    place[where[-1]] = value
    torch.save(state, tmp_path / "checkpoint.pt")
    survives(tmp_path / "checkpoint.pt", capsys)
