"""Dumps: roles and sites of arrays in every format, rows by byte range, and what is refused."""

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from collapse_cli.core.roles import ROLES, SYNONYMS
from collapse_cli.errors import BadPolicy, CollapseError, UnreadableDump
from collapse_cli.sources import bytes as sources_bytes
from collapse_cli.sources import open_checkpoint
from collapse_cli.sources.dump import Dump, is_dump, memory_dump, open_dump

FEATURES = np.arange(60, dtype=np.float32).reshape(20, 3) / 7
LABELS = np.arange(20, dtype=np.int64) % 4
LAYER = "encoder.layer.3"


def _safetensors(path: Path, arrays: dict[str, np.ndarray], metadata: dict[str, str]) -> Path:
    save_file({name: torch.from_numpy(value.copy()) for name, value in arrays.items()}, path, metadata or None)
    return path


def _npz(path: Path, arrays: dict[str, np.ndarray], metadata: dict[str, str]) -> Path:
    extra = {"collapse.metadata": np.array(json.dumps(metadata))} if metadata else {}
    with path.open("wb") as file:
        np.savez(file, **arrays, **extra)
    return path


def _packed(path: Path, arrays: dict[str, np.ndarray], metadata: dict[str, str]) -> Path:
    extra = {"collapse.metadata": np.array(json.dumps(metadata))} if metadata else {}
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays, **extra)
    return path


def _pt(path: Path, arrays: dict[str, np.ndarray], metadata: dict[str, str]) -> Path:
    tensors = {name: torch.from_numpy(value.copy()) for name, value in arrays.items()}
    torch.save({**tensors, **({"metadata": metadata} if metadata else {})}, path)
    return path


Write = Callable[[Path, dict[str, np.ndarray], dict[str, str]], Path]
FORMATS: tuple[Write, ...] = (_safetensors, _npz, _packed, _pt)


def _all(dump: Dump, site: str, role: str, rows: int) -> np.ndarray:
    return np.concatenate([batch[role].numpy() for batch in dump.batches(site, [role], rows=rows)])


@pytest.mark.parametrize("write", FORMATS)
def test_every_format_gives_the_same_dump(write: Write, tmp_path: Path) -> None:
    path = write(tmp_path / "file", {f"{LAYER}/features": FEATURES, "labels": LABELS}, {"split": "test"})
    assert is_dump(path)
    dump = open_dump(path)
    (site,) = dump.sites()
    assert (site.name, site.shape, site.dtype, site.layer) == (LAYER, (20, 3), "F32", 3)
    assert list(dump[LAYER].arrays) == ["features", "labels"]
    assert dump[LAYER].rows == 20
    assert dump.metadata["split"] == "test"
    batches = list(dump.batches(LAYER, ["features", "labels"], rows=7))
    assert [len(batch["labels"]) for batch in batches] == [7, 7, 6]
    np.testing.assert_array_equal(np.concatenate([batch["features"].numpy() for batch in batches]), FEATURES)
    np.testing.assert_array_equal(np.concatenate([batch["labels"].numpy() for batch in batches]), LABELS)
    np.testing.assert_array_equal(dump.read_rows(LAYER, "features", 5, 9).numpy(), FEATURES[5:9])


def test_one_npy_holds_features(tmp_path: Path) -> None:
    np.save(tmp_path / "embeddings_v2.npy", FEATURES.astype(">f4"))
    assert not is_dump(tmp_path / "embeddings_v2.npy")
    dump = open_dump(tmp_path / "embeddings_v2.npy")
    assert any('"embeddings_v2" is read as "features"' in notice for notice in dump.notices)
    np.testing.assert_array_equal(_all(dump, "output", "features", 6), FEATURES)
    np.save(tmp_path / "features.npy", FEATURES)
    assert is_dump(tmp_path / "features.npy")


def test_only_the_bytes_of_the_rows_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for write in (_safetensors, _npz, _pt):
        path = write(tmp_path / write.__name__, {"features": FEATURES, "logits": FEATURES}, {})
        dump = open_dump(path)
        reads: list[int] = []
        read_into = sources_bytes.LocalBytes.read_into

        def counted(
            self: sources_bytes.LocalBytes, offset: int, buffer: memoryview, *, reads=reads, read_into=read_into
        ) -> None:
            reads.append(buffer.nbytes)
            read_into(self, offset, buffer)

        monkeypatch.setattr(sources_bytes.LocalBytes, "read_into", counted)
        tensor = dump.read_rows("output", "logits", 4, 9)
        monkeypatch.undo()
        assert reads == [5 * 3 * 4], write.__name__
        np.testing.assert_array_equal(tensor.numpy(), FEATURES[4:9])


def test_strided_tensors_of_torch_are_read_by_rows(tmp_path: Path) -> None:
    whole = torch.arange(200.0).reshape(10, 20)
    torch.save(
        {"features": whole[:, 5:9], "view_a": whole[:, :4], "logits": whole.T, "sparse": whole[:1].expand(10, 20)},
        tmp_path / "d.pt",
    )
    checkpoint = open_checkpoint(tmp_path / "d.pt")
    for name, expected in (("features", whole[2:6, 5:9]), ("view_a", whole[2:6, :4])):
        read_rows = checkpoint.row_reader(name)
        assert read_rows is not None
        assert torch.equal(read_rows(2, 6), expected)
    assert checkpoint.row_reader("logits") is None
    assert checkpoint.row_reader("sparse") is None


def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    save_file({"features": torch.zeros(200_000, 64)}, tmp_path / "d.safetensors")
    dump = open_dump(tmp_path / "d.safetensors")
    next(dump.batches("output", ["features"]))
    tracemalloc.start()
    for batch in dump.batches("output", ["features"]):
        assert batch["features"].shape[1] == 64
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # python's own objects only: torch's windows are 1 MiB each, seen by their length below
    assert peak < 1 << 20
    assert max(len(batch["features"]) for batch in dump.batches("output", ["features"])) == 4096


def test_a_window_is_bounded_in_bytes_too() -> None:
    dump = memory_dump({"tokens": torch.zeros(5, 1, 1).expand(5, 8192, 4096)})
    assert dump["output"].arrays["tokens"].row_bytes == 128 << 20
    batches = dump.batches("output", ["tokens"])
    assert next(batches)["tokens"].shape[0] == 2


# --- names -----------------------------------------------------------------------------------------------------------


def test_synonyms_are_recognised_and_said() -> None:
    dump = memory_dump({"x": FEATURES, "y": LABELS, "thing": LABELS})
    assert list(dump["output"].arrays) == ["features", "labels"]
    assert 'array "x" is read as output/features' in dump.notices
    assert 'array "y" is read as output/labels' in dump.notices
    assert any('no role and not read: "thing"' in notice for notice in dump.notices)
    real = memory_dump({"x": FEATURES, "y": FEATURES[:, 0]})
    assert list(real["output"].arrays) == ["features", "targets"]
    assert list(memory_dump({"features": FEATURES, "targets": LABELS})["output"].arrays) == ["features", "labels"]
    assert set(SYNONYMS.values()) <= set(ROLES)
    assert not set(SYNONYMS) & set(ROLES)


def test_the_role_itself_beats_a_synonym() -> None:
    dump = memory_dump({"x": FEATURES * 2, "features": FEATURES})
    np.testing.assert_array_equal(dump.read("output", "features").numpy(), FEATURES)
    assert any('"x" is not read: "features" is output/features already' in notice for notice in dump.notices)


def test_a_map_names_foreign_arrays() -> None:
    dump = memory_dump(
        {"h_12": FEATURES, "site/act": FEATURES, "cls": LABELS},
        roles={"enc/features": "h_12", "features": "site/act", "labels": "cls"},
    )
    assert {point.name: list(point.arrays) for point in dump.points} == {
        "enc": ["features", "labels"],
        "site": ["features", "labels"],
    }
    with pytest.raises(BadPolicy, match='"feature_s" is no role') as wrong:
        memory_dump({"h": FEATURES}, roles={"feature_s": "h"})
    assert "features" in wrong.value.hint
    with pytest.raises(UnreadableDump, match="--map features=g names no array") as absent:
        memory_dump({"h": FEATURES}, roles={"features": "g"})
    assert '"h"' in absent.value.hint


def test_sites_stand_in_depth_order() -> None:
    names = ["head", "layers.10", "layers.2", "output", "conv2", "conv10"]
    dump = memory_dump({f"{name}/features": FEATURES for name in names})
    assert [site.name for site in dump.sites()] == ["layers.2", "layers.10", "conv2", "conv10", "head", "output"]
    assert [site.layer for site in dump.sites()] == [2, 10, None, None, None, None]
    stacks = memory_dump({f"{name}/features": FEATURES for name in ("a.layers.1", "a.layers.0", "b.layers.0")})
    assert [site.name for site in stacks.sites()] == ["a.layers.0", "b.layers.0", "a.layers.1"]


def test_annotations_of_the_output_belong_to_every_site_of_as_many_samples() -> None:
    dump = memory_dump(
        {"a/features": FEATURES, "b/features": FEATURES[:5], "c/reference": FEATURES, "labels": LABELS, "a/ids": LABELS}
    )
    assert {point.name: list(point.arrays) for point in dump.points} == {
        "a": ["features", "ids", "labels"],
        "b": ["features"],
        "c": ["reference"],
    }
    assert 'labels (20 rows) are not those of site "b"' in dump.notices


def test_what_makes_a_file_a_dump(tmp_path: Path) -> None:
    cases = {
        "a": ({"layer.0/features": FEATURES}, {}, True),
        "b": ({"layer.0.weight": FEATURES}, {}, False),
        "c": ({"layer.0.weight": FEATURES}, {"collapse.schema": "dump/1"}, True),
        "d": ({"codebook": FEATURES}, {}, False),
        "e": ({"x": FEATURES}, {}, False),
        "f": ({"mu": FEATURES}, {}, True),
        "g": ({"labels": LABELS, "position_ids": LABELS}, {}, False),
    }
    for name, (arrays, metadata, expected) in cases.items():
        path = _safetensors(tmp_path / name, arrays, metadata)
        assert is_dump(path) is expected, name
        assert is_dump(open_checkpoint(path)) is expected, name
    assert not is_dump(tmp_path / "nothing")
    (tmp_path / "text").write_text("hello")
    assert not is_dump(tmp_path / "text")


# --- shards ----------------------------------------------------------------------------------------------------------


def test_shards_are_joined_along_the_rows_whatever_the_windows() -> None:
    parts = [{"features": FEATURES[a:b], "labels": LABELS[a:b]} for a, b in ((0, 3), (3, 4), (4, 20))]
    dump = memory_dump(*parts)
    assert dump["output"].rows == 20
    for rows in (1, 2, 3, 7, 100):
        windows = list(dump.batches("output", ["features", "labels"], rows=rows))
        assert {len(window["features"]) for window in windows[:-1]} <= {rows}
        np.testing.assert_array_equal(np.concatenate([window["features"].numpy() for window in windows]), FEATURES)
        np.testing.assert_array_equal(np.concatenate([window["labels"].numpy() for window in windows]), LABELS)


def test_many_shards_need_few_open_files(tmp_path: Path) -> None:
    for number in range(150):
        save_file({"features": torch.full((2, 3), float(number))}, tmp_path / f"part{number}.safetensors")
    before = len(list(Path("/proc/self/fd").iterdir()))
    dump = open_dump(tmp_path, as_dump=True)
    values = _all(dump, "output", "features", 5)
    assert len(list(Path("/proc/self/fd").iterdir())) - before <= 66
    np.testing.assert_array_equal(values[:, 0], np.repeat(np.arange(150.0), 2))
    dump.close()


def test_mixed_dtypes_over_shards() -> None:
    half = FEATURES.astype(np.float16)
    dump = memory_dump({"features": FEATURES[:4]}, {"features": half[4:]})
    assert dump.sites()[0].dtype == "F32"
    assert any("several dtypes, read as F32: F32 (shard 0), F16 (shard 1)" in notice for notice in dump.notices)
    expected = np.concatenate([FEATURES[:4], half[4:].astype(np.float32)])
    np.testing.assert_array_equal(_all(dump, "output", "features", 3), expected)
    with pytest.raises(UnreadableDump, match="should have one dtype in every shard, it has F32"):
        memory_dump({"features": FEATURES[:4]}, {"features": LABELS.reshape(-1, 1).repeat(3, 1)})


def test_a_folder_without_index_is_one_dump_only_when_told(tmp_path: Path) -> None:
    for number, rows in ((10, slice(12, 20)), (2, slice(0, 12))):
        np.save(tmp_path / f"x_{number}.npy", FEATURES[rows])
    with pytest.raises(UnreadableDump, match=r"2 files and no dump\.index\.json") as refused:
        open_dump(tmp_path)
    assert "--as dump" in refused.value.hint
    assert not is_dump(tmp_path)
    dump = open_dump(tmp_path, as_dump=True)
    np.testing.assert_array_equal(_all(dump, "output", "features", 9), FEATURES)


def _folder(path: Path, lengths: tuple[int, ...] = (8, 8, 4)) -> Path:
    path.mkdir()
    begin, shards = 0, []
    for number, length in enumerate(lengths):
        file = f"s{number}.safetensors"
        rows = slice(begin, begin + length)
        _safetensors(path / file, {"output/features": FEATURES[rows], "output/labels": LABELS[rows]}, {})
        shards.append({"file": file, "rows": {"output/features": length, "output/labels": length}})
        begin += length
    (path / "dump.index.json").write_text(json.dumps({"metadata": {"split": "test"}, "shards": shards}))
    return path


def test_an_index_gives_the_order_and_the_metadata(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "d")
    index = json.loads((folder / "dump.index.json").read_text())
    index["shards"] = index["shards"][::-1]
    (folder / "dump.index.json").write_text(json.dumps(index))
    for path in (folder, folder / "dump.index.json"):
        assert is_dump(path)
        dump = open_dump(path)
        assert dump.metadata == {"split": "test"}
        expected = np.concatenate([FEATURES[16:], FEATURES[8:16], FEATURES[:8]])
        np.testing.assert_array_equal(_all(dump, "output", "features", 6), expected)


def test_an_absent_shard_is_named_with_the_rows_before_it(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "d")
    (folder / "s1.safetensors").unlink()
    with pytest.raises(UnreadableDump, match=r'shard "s1.safetensors" .* is not there; 8 rows before it are whole'):
        open_dump(folder)


def test_a_truncated_shard_is_named_with_the_rows_that_are_whole(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "d")
    shard = folder / "s2.safetensors"
    # labels (wider entries) stand first: all 4 of them, and 2 rows of features and a half
    shard.write_bytes(shard.read_bytes()[: -2 * 12 + 6])
    with pytest.raises(UnreadableDump, match=r"s2\.safetensors.*18 of 20 rows are whole"):
        open_dump(folder)
    lone = tmp_path / "lone.safetensors"
    lone.write_bytes(shard.read_bytes())
    assert is_dump(lone)
    with pytest.raises(UnreadableDump, match="2 of 4 rows are whole"):
        open_dump(lone)
    shard.write_bytes(b"")
    with pytest.raises(UnreadableDump, match=r"s2\.safetensors.*16 rows are whole|16 .*rows are whole"):
        open_dump(folder)


def test_a_shard_of_another_capture_is_refused(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "d")
    _safetensors(folder / "s0.safetensors", {"output/features": FEATURES[:5], "output/labels": LABELS[:5]}, {})
    with pytest.raises(UnreadableDump, match=r'"s0\.safetensors" should hold 8 rows of "output/features", it holds 5'):
        open_dump(folder)


@pytest.mark.parametrize(
    "index",
    [
        "[]",
        "{",
        '{"shards": []}',
        '{"shards": [{"file": "../a", "rows": {}}]}',
        '{"shards": [{"file": "/a", "rows": {}}]}',
        '{"shards": [{"file": 3, "rows": {}}]}',
        '{"shards": [{"file": "a"}]}',
        '{"shards": [3]}',
        '{"metadata": {"a": 1}, "shards": [{"file": "a", "rows": {}}]}',
    ],
)
def test_a_damaged_index_is_refused(index: str, tmp_path: Path) -> None:
    (tmp_path / "dump.index.json").write_text(index)
    with pytest.raises(UnreadableDump) as refused:
        open_dump(tmp_path)
    assert str(tmp_path) in str(refused.value)


# --- what is refused -------------------------------------------------------------------------------------------------

BAD: dict[str, tuple[dict[str, np.ndarray], str]] = {
    "labels of another length": ({"features": FEATURES, "labels": LABELS[:7]}, "features has 20, labels has 7"),
    "shared labels": (
        {"a/features": FEATURES, "labels": LABELS[:7]},
        "labels has 7, the site has 20",
    ),
    "whole float labels": ({"features": FEATURES, "labels": LABELS.astype(np.float32)}, "F32, every value whole"),
    "float labels": ({"features": FEATURES, "labels": FEATURES[:, 0]}, "and 0.428571 is no class"),
    "features of three axes": ({"features": FEATURES[None]}, "should be samples × features, it is 1 × 20 × 3"),
    "features of integers": ({"features": LABELS[:, None]}, "should hold floating-point numbers, it holds I64"),
    "labels of two axes": ({"features": FEATURES, "labels": LABELS[:, None]}, "should be samples, it is 20 × 1"),
    "only labels": ({"labels": LABELS}, 'it holds only "labels"'),
    "only strangers": ({"w": FEATURES}, 'it holds "w"'),
    "a skew distance": (
        {"logits": FEATURES, "label_distance": FEATURES},
        "as long as wide, it is 20 × 3",
    ),
    "other tokens": ({"tokens": FEATURES[:, :, None], "mask": LABELS[:, None] > 0}, "tokens has 3, mask has 1"),
    "a scalar": ({"features": np.float32(1.0)}, "it is one number"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arrays_are_refused_with_what_was_expected_and_given(case: str) -> None:
    arrays, message = BAD[case]
    with pytest.raises(UnreadableDump) as refused:
        memory_dump(arrays)
    assert message in str(refused.value)
    assert refused.value.hint
    assert ("astype('float32')" in refused.value.hint) is ("floating-point" in message)


def test_shapes_that_differ_over_shards_are_refused() -> None:
    with pytest.raises(UnreadableDump, match="one shape in every shard"):
        memory_dump({"features": FEATURES}, {"features": FEATURES[:, :2]})


def test_what_lacks_its_partner_is_said() -> None:
    dump = memory_dump({"view_a": FEATURES, "mu": FEATURES})
    assert 'site "output" has view_a without view_b, mu without logvar' in dump.notices


def test_roles_of_other_populations_are_not_read_together() -> None:
    dump = memory_dump({"samples": FEATURES, "reference": FEATURES[:9]})
    with pytest.raises(UnreadableDump, match="rows in common"):
        next(dump.batches("output", ["samples", "reference"]))
    assert [len(batch["reference"]) for batch in dump.batches("output", ["reference"], rows=5)] == [5, 4]


def test_arrays_without_rows_are_read_whole() -> None:
    dump = memory_dump({"features": FEATURES, "head_weight": FEATURES[:4]}, {"features": FEATURES})
    np.testing.assert_array_equal(dump.read("output", "head_weight").numpy(), FEATURES[:4])
    assert dump.read("output", "features").shape == (40, 3)


def test_no_samples_is_a_dump_without_batches() -> None:
    dump = memory_dump({"features": FEATURES[:0]})
    assert list(dump.batches("output", ["features"])) == []
    assert dump.read("output", "features").shape == (0, 3)


def test_a_file_that_shrinks_is_an_error_of_the_dump(tmp_path: Path) -> None:
    path = _safetensors(tmp_path / "d.safetensors", {"features": FEATURES}, {})
    dump = open_dump(path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UnreadableDump, match="byte 320 was wanted"):
        dump.read_rows("output", "features", 10, 20)


def test_no_such_path(tmp_path: Path) -> None:
    with pytest.raises(CollapseError, match="no such file"):
        open_dump(tmp_path / "absent.safetensors")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UnreadableDump, match="holds no arrays"):
        open_dump(tmp_path / "empty", as_dump=True)


@pytest.mark.parametrize("metadata", ["[]", '{"a": 1}', "{"])
def test_metadata_of_npz_that_is_none(metadata: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", features=FEATURES, **{"collapse.metadata": np.array(metadata)})
    with pytest.raises(UnreadableDump, match=r"collapse\.metadata"):
        open_dump(tmp_path / "d.npz")
