"""Building and opening an index: what is kept, what is refused, and that nothing good is lost."""

import csv
import hashlib
import json
import os
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.data import media_files as media
from vidsim.core.errors import BadInput
from vidsim.data import schema
from vidsim.data.index import ClipIndex, IndexConfig, build_index
from vidsim.data.sources import MediaOptions
from vidsim.worlds import base as worlds


@pytest.fixture
def tree(tmp_path):
    """A folder with clips of several kinds, captions beside them, and three broken files."""
    root = tmp_path / "clips"
    (root / "b" / "deep").mkdir(parents=True)
    media.write_video(root / "b" / "long.mp4", media.steps(12), audio_s=1.0)
    (root / "b" / "long.txt").write_text("a grey wall\n\n  it turns   lighter \n", "utf-8")
    media.write_video(root / "b" / "deep" / "ü.mkv", media.motion(5, 64, 48), rate=30)
    two = [{"text": "short one", "kind": "short"}, {"text": "a longer one", "kind": "descriptive"}]
    (root / "b" / "deep" / "ü.json").write_text(json.dumps({"captions": two}))
    Image.fromarray(media.gradient(1, 40, 56)[0]).save(root / "a.png")
    (root / "a.json").write_text('{"caption": "a ramp"}')
    media.write_video(root / "c.gif", media.steps(6), "gif", "rgb8", rate=10)
    Image.new("RGB", (20, 30), (1, 2, 3)).save(root / "Z.JPG")
    (root / "notes.md").write_text("not media")
    (root / ".hidden.mp4").write_bytes(b"junk")
    (root / "broken.mp4").write_bytes(b"junk" * 100)
    (root / "empty.webm").write_bytes(b"")
    media.write_video(root / "odd.mkv", media.steps(3))
    (root / "odd.json").write_text("{no json")
    return root


def test_a_folder_becomes_rows_in_path_order(tree):
    out = tree.parent / "index.parquet"
    report = build_index(str(tree), out)
    index = ClipIndex.open(out)
    assert list(index.clip_id) == ["Z.JPG", "a.png", "b/deep/ü.mkv", "b/long.mp4", "c.gif"]
    assert list(index.source) == [f"clips/{name}" for name in index.clip_id]
    assert index.num_frames.tolist() == [1, 1, 5, 12, 6]
    assert index.fps.tolist() == [1.0, 1.0, 30.0, 24.0, 10.0]
    sizes = np.stack([index.height, index.width], 1).tolist()
    assert sizes == [[30, 20], [40, 56], [64, 48], [48, 64], [48, 64]]
    texts = [[(c.text, c.kind) for c in index.captions(i)] for i in range(5)]
    assert texts == [
        [],
        [("a ramp", "given")],
        [("short one", "short"), ("a longer one", "descriptive")],
        [("a grey wall", "given"), ("it turns lighter", "given")],
        [],
    ]
    counts = [len(text.encode()) + 1 for clip in texts for text, _ in clip]
    assert index.text_tokens.tolist() == counts
    assert (report.clips, report.images, report.videos, report.captioned, report.bad) == (
        5,
        2,
        3,
        3,
        3,
    )
    assert report.seconds == pytest.approx(5 / 30 + 12 / 24 + 6 / 10)
    assert report.ignored == {".md": 1}
    assert report.hash == index.hash
    listed = [json.loads(line) for line in open(report.bad_path, encoding="utf-8")]
    assert [item["source"] for item in listed] == [
        f"clips/{n}" for n in ("broken.mp4", "empty.webm", "odd.mkv")
    ]
    reasons = [item["reason"] for item in listed]
    assert reasons[1:] == ["empty.webm: file is empty", "odd.json: is not JSON"]
    assert "cannot be decoded" in reasons[0] or "truncated" in reasons[0]
    assert "3 unreadable, listed in" in "\n".join(report.lines())


def test_clips_are_read_back_by_row(tree):
    build_index(str(tree), tree / "index.parquet")
    index = ClipIndex.open(tree / "index.parquet")
    long = list(index.clip_id).index("b/long.mp4")
    whole = index.read(long)
    assert np.abs(whole.astype(int) - media.steps(12)).max() <= 2
    np.testing.assert_array_equal(index.read(long, 3, 4, 2), whole[3:11:2])
    np.testing.assert_array_equal(index.read(long, 5), whole[5:])
    np.testing.assert_array_equal(index.read(long, 1, stride=4), whole[1::4])
    crop = index.read(long, 0, 2, resize=(24, 32), crop=(4, 8, 16, 16))
    np.testing.assert_array_equal(crop, index.read(long, 0, 2, resize=(24, 32))[:, 4:20, 8:24])
    for wrong in (
        {"start_frame": -1},
        {"count": 13},
        {"start_frame": 12},
        {"count": 2, "stride": 12},
    ):
        with pytest.raises(BadInput, match="of b/long.mp4; within its 12 frames"):
            index.read(long, **wrong)
    record = index.record(long)
    assert (record.clip_id, record.num_frames, record.extra["codec"]) == ("b/long.mp4", 12, "h264")
    assert record.text_tokens == (12, 17)


def test_the_result_does_not_depend_on_the_number_of_workers(tree):
    tables = []
    for workers in (1, 2, 7):
        out = tree.parent / f"{workers}.parquet"
        report = build_index(str(tree), out, workers=workers)
        bad = report.bad_path.read_text("utf-8")
        tables.append((report.hash, bad, pq.read_table(out).to_pylist(), report.ignored))
    assert tables[0] == tables[1] == tables[2]


def test_progress_counts_every_candidate(tree):
    seen = []
    build_index(
        str(tree), tree.parent / "i.parquet", progress=lambda done, bad: seen.append((done, bad))
    )
    assert [done for done, _ in seen] == list(range(1, 9))
    assert seen[-1] == (8, 3)


def test_file_hashes_and_whole_text_captions(tree):
    options = MediaOptions(sha256=True, txt="whole", check="first")
    build_index(str(tree), tree / "i.parquet", IndexConfig(media=options))
    index = ClipIndex.open(tree / "i.parquet")
    for i in range(len(index)):
        data = (tree / index.source[i]).read_bytes()
        assert index.record(i).sha256 == hashlib.sha256(data).hexdigest()
    long = list(index.clip_id).index("b/long.mp4")
    assert [c.text for c in index.captions(long)] == ["a grey wall it turns lighter"]


def test_rules_leave_clips_out_and_are_counted(tree):
    config = IndexConfig(min_frames=2, min_side=48, require_caption=True)
    report = build_index(str(tree), tree / "i.parquet", config)
    assert list(ClipIndex.open(tree / "i.parquet").clip_id) == ["b/deep/ü.mkv", "b/long.mp4"]
    assert report.dropped == {"min_frames=2": 2, "min_side=48": 2, "require_caption": 2}
    assert report.left_out == 3
    report = build_index(str(tree), tree / "i.parquet", IndexConfig(max_s=0.4))
    assert report.dropped == {"max_s=0.4": 2}


def test_a_rule_that_leaves_nothing_stops_and_overwrites_nothing(tree):
    out = tree / "i.parquet"
    build_index(str(tree), out)
    before = {path: path.read_bytes() for path in sorted(tree.glob("i.parquet*"))}
    assert len(before) == 2
    with pytest.raises(BadInput) as caught:
        build_index(str(tree), out, IndexConfig(min_side=500, min_frames=2))
    assert str(caught.value) == (
        "index: no clip of 8 is left (min_frames=2: 2, min_side=500: 5; unreadable: 3); "
        "loosen the rule"
    )
    assert {path: path.read_bytes() for path in sorted(tree.glob("i.parquet*"))} == before
    assert not list(tree.glob(".*.part"))


def test_a_failure_half_way_leaves_the_old_index(tree, monkeypatch):
    out = tree / "i.parquet"
    build_index(str(tree), out)
    before = out.read_bytes()

    def full_disk(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_batch", full_disk)
    with pytest.raises(OSError, match="No space"):
        build_index(str(tree), out)
    assert out.read_bytes() == before
    assert not list(tree.glob(".*.part"))


def test_empty_and_hopeless_folders(tmp_path):
    with pytest.raises(BadInput, match="no clips in .*; files passed over: none"):
        build_index(str(tmp_path), tmp_path / "i.parquet")
    (tmp_path / "a.doc").write_bytes(b"x")
    with pytest.raises(BadInput, match="no clips in .*; files passed over: 1 .doc"):
        build_index(str(tmp_path), tmp_path / "i.parquet")
    (tmp_path / "b.mp4").write_bytes(b"")
    with pytest.raises(
        BadInput, match="all 1 clips of .* are unreadable, first b.mp4: b.mp4: file is empty"
    ):
        build_index(str(tmp_path), tmp_path / "i.parquet")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.doc", "b.mp4"]


def test_outputs_and_sources_that_make_no_sense(tree):
    movie = tree / "c.gif"
    with pytest.raises(BadInput, match="output 'c.gif'; a name ending in .parquet"):
        build_index(str(tree), movie)
    other = tree / "table.parquet"
    pq.write_table(pa.table({"x": [1]}), other)
    with pytest.raises(BadInput, match="is there and is not an index; choose another --out"):
        build_index(str(tree), other)
    with pytest.raises(BadInput, match="folder .* does not exist; create it"):
        build_index(str(tree), tree / "no" / "i.parquet")
    for spec, reason in (
        ("/no/such/place", "does not exist; a folder, a manifest"),
        (str(tree / "notes.md"), "has an unknown ending"),
        ("https://example.com/a.mp4", "is a URL; .*; mount or copy the files"),
        ("gs://bucket/clips", "is a URL"),
    ):
        with pytest.raises(BadInput, match=reason):
            build_index(spec, tree / "i.parquet")
    for wrong in ({"min_side": 0}, {"max_s": -1.0}, {"max_s": float("nan")}):
        with pytest.raises(BadInput, match="IndexConfig"):
            IndexConfig(**wrong)
    for wrong in ({"check": "some"}, {"txt": "words"}):
        with pytest.raises(BadInput, match="media"):
            MediaOptions(**wrong)


def test_clips_must_lie_below_the_folder_of_the_index(tree, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with pytest.raises(
        BadInput, match="lies outside the index's folder .*; write the index into the folder"
    ):
        build_index(str(tree), elsewhere / "i.parquet")
    assert not list(elsewhere.iterdir())


def test_links_that_leave_the_folder_are_refused(tree, tmp_path):
    secret = media.write_video(tmp_path / "secret.mp4", media.steps(3))
    os.symlink(secret, tree / "link.mp4")
    os.symlink(tmp_path, tree / "loop")
    os.symlink(tree / "a.png", tree / "inside.png")
    report = build_index(str(tree), tree / "i.parquet")
    listed = {item["source"]: item["reason"] for item in map(json.loads, open(report.bad_path))}
    assert "is a link that leaves" in listed["link.mp4"]
    assert listed["loop"] == "is a link to a folder, which is not followed"
    index = ClipIndex.open(tree / "i.parquet")
    inside = list(index.clip_id).index("inside.png")
    np.testing.assert_array_equal(
        index.read(inside), index.read(list(index.clip_id).index("a.png"))
    )
    # A link that is swapped in after indexing is refused when it is read.
    os.remove(tree / "c.gif")
    os.symlink(secret, tree / "c.gif")
    with pytest.raises(BadInput, match="c.gif is a link that leaves"):
        index.read(list(index.clip_id).index("c.gif"))


def altered(path, change, **metadata):
    """Writes the table of an index again, changed."""
    table = pq.read_table(path)
    meta = json.loads(table.schema.metadata[schema.METADATA_KEY]) | metadata
    table = change(table).replace_schema_metadata({schema.METADATA_KEY: json.dumps(meta)})
    pq.write_table(table, path)


def put(name, values):
    def change(table):
        at = table.schema.get_field_index(name)
        return table.set_column(
            at, table.schema.field(name), pa.array(values, table.schema.field(name).type)
        )

    return change


@pytest.mark.parametrize(
    "source",
    ["../secret.mp4", "/etc/passwd", "a/../../b.mp4", "file:///etc/passwd", "http://x/y.mp4",
     "C:\\x.mp4", "a\x00.mp4", "b/..", "..", "concat:a.mp4", ""],
)  # fmt: skip
def test_an_index_with_unsafe_paths_is_refused(tree, source):
    out = tree / "i.parquet"
    build_index(str(tree), out)
    altered(out, put("source", ["Z.JPG", "a.png", source, "c.gif", "c.gif"]))
    with pytest.raises(BadInput, match="leaves the index's folder; relative paths without"):
        ClipIndex.open(out)


def test_damaged_and_foreign_indices_are_named(tree):
    out = tree / "i.parquet"
    with pytest.raises(BadInput, match="i.parquet: no index at .*; make one with vidsim index"):
        ClipIndex.open(out)
    build_index(str(tree), out)
    good = out.read_bytes()

    def refused(reason):
        with pytest.raises(BadInput, match=f"i.parquet: {reason}"):
            ClipIndex.open(out)
        out.write_bytes(good)

    out.write_bytes(good[: len(good) // 2])
    refused("is not a readable Parquet file")
    out.write_bytes(b"")
    refused("is not a readable Parquet file")
    pq.write_table(pa.table({"clip_id": ["a"]}), out)
    refused("is not an index; a file made by vidsim index")
    altered(out, lambda t: t, version=9)
    refused("index version 9; version 1; make the index again")
    altered(out, lambda t: t.drop_columns(["fps", "extra"]))
    refused("columns missing: fps, extra; needs clip_id, ")
    altered(out, lambda t: t.set_column(4, "fps", pa.array([1, 1, 1, 1, 1], pa.int32())))
    refused("column fps is int32; double")
    altered(out, put("num_frames", [1, 1, 0, 12, 6]))
    refused("num_frames of row 2 is 0; at least 1")
    altered(out, put("fps", [1.0, 1.0, float("nan"), 1.0, 1.0]))
    refused("fps of row 2 is nan")
    altered(out, put("height", [1, 1, None, 12, 6]))
    refused("empty values in height")
    altered(out, put("clip_id", ["a", "a", "b", "c", "d"]))
    refused("clip_id is not unique")
    altered(out, put("text_tokens", [[], [7], [5], [1, 2], []]))
    refused("captions and text_tokens differ in number")
    altered(out, lambda t: t.slice(0, 0))
    refused("holds no clip")
    altered(out, lambda t: t, spec={"kind": "magic"})
    with pytest.raises(BadInput, match="made from an unknown kind of source 'magic'"):
        ClipIndex.open(out).read(0)


def test_a_file_that_changed_after_indexing_is_named(tree):
    out = tree / "i.parquet"
    build_index(str(tree), out)
    index = ClipIndex.open(out)
    media.write_video(tree / "b" / "long.mp4", media.steps(8))
    row = list(index.clip_id).index("b/long.mp4")
    with pytest.raises(BadInput, match="long.mp4: ends before frame 8 of its clip"):
        index.read(row)
    media.write_video(tree / "b" / "long.mp4", media.steps(12, 64, 64))
    with pytest.raises(BadInput, match=r"b/long.mp4 has size \(64, 64\); \(48, 64\) as indexed"):
        index.read(row)
    os.remove(tree / "b" / "long.mp4")
    with pytest.raises(BadInput, match="b/long.mp4 does not exist below"):
        index.read(row)


def test_the_hash_follows_the_content_and_nothing_else(tree):
    out = tree / "i.parquet"
    first = build_index(str(tree), out).hash
    assert build_index(str(tree), tree / "other.parquet").hash == first
    table = pq.read_table(out)
    pq.write_table(table, out, compression="none", row_group_size=2, use_dictionary=False)
    assert ClipIndex.open(out).hash == first
    changes = [
        put("num_frames", [1, 1, 4, 12, 6]),
        put("clip_id", ["a", "b", "c", "d", "e"]),
        put("fps", [1.0, 1.0, 30.0, 24.0, 11.0]),
        put("text_tokens", [[], [7], [10, 13], [12, 16], []]),
        lambda t: t.take(pa.array([1, 0, 2, 3, 4])),
    ]
    hashes = {first}
    for change in changes:
        pq.write_table(table, out)
        altered(out, change)
        hashes.add(ClipIndex.open(out).hash)
    assert len(hashes) == 1 + len(changes)


def test_an_index_travels_to_worker_processes_by_its_path(tree):
    out = tree / "i.parquet"
    build_index(str(tree), out)
    index = ClipIndex.open(out)
    raw = pickle.dumps(index)
    assert len(raw) < 500
    again = pickle.loads(raw)
    np.testing.assert_array_equal(again.read(3), index.read(3))
    altered(out, put("num_frames", [1, 1, 4, 12, 6]))
    with pytest.raises(BadInput, match="i.parquet: has changed since it was opened"):
        pickle.loads(raw)


def write_manifest(path, rows):
    if path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    elif path.suffix == ".csv":
        names = sorted({name for row in rows for name in row})
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            for row in rows:
                lists = {k: json.dumps(v) for k, v in row.items() if isinstance(v, list)}
                writer.writerow(row | lists)
    else:
        names = sorted({name for row in rows for name in row})
        pq.write_table(pa.table({name: [row.get(name) for row in rows] for name in names}), path)


@pytest.mark.parametrize("name", ["m.jsonl", "m.csv", "m.parquet"])
def test_manifests_cut_files_and_carry_captions(tree, name):
    rows = [
        {"path": "b/long.mp4", "captions": ["whole", "all of it"]},
        {"path": "b/long.mp4", "captions": ["tail"], "start_s": 0.25},
        {"path": "b/long.mp4", "captions": ["middle"], "start_s": 0.125, "end_s": 0.375},
        {"path": "b/long.mp4", "captions": ["head"], "num_frames": 4, "mood": "calm"},
        {"path": "b/long.mp4", "captions": ["slow"], "fps": 12.0},
        {"path": "a.png", "captions": []},
    ]
    write_manifest(tree / name, rows)
    report = build_index(str(tree / name), tree / "i.parquet", workers=2)
    assert (report.clips, report.bad) == (6, 0)
    index = ClipIndex.open(tree / "i.parquet")
    assert index.num_frames.tolist() == [12, 6, 6, 4, 6, 1]
    assert index.fps.tolist() == [24, 24, 24, 24, 12, 1]
    texts = [[c.text for c in index.captions(i)] for i in range(6)]
    assert texts == [["whole", "all of it"], ["tail"], ["middle"], ["head"], ["slow"], []]
    whole = index.read(0)
    np.testing.assert_array_equal(index.read(1), whole[6:])
    np.testing.assert_array_equal(index.read(2), whole[3:9])
    np.testing.assert_array_equal(index.read(3), whole[:4])
    np.testing.assert_array_equal(index.read(2, 1, 2, 3), whole[4:8:3])
    np.testing.assert_array_equal(index.read(4)[:5], whole[[0, 2, 4, 6, 8]])
    assert index.extra(3)["manifest"] == {"mood": "calm"}


def test_bad_rows_of_a_manifest_are_listed_and_the_rest_goes_on(tree):
    rows = [
        {"path": "../clips/a.png"},
        {"path": "/etc/passwd"},
        {"path": "https://example.com/a.mp4"},
        {"path": "a\x00.png"},
        {"path": "missing.mp4"},
        {"path": "broken.mp4"},
        {"path": "b/long.mp4", "start_s": 9},
        {"path": "b/long.mp4", "start_s": "soon"},
        {"path": "b/long.mp4", "num_frames": 13},
        {"path": "b/long.mp4", "num_frames": 2.5},
        {"path": "b/long.mp4", "num_frames": 2, "end_s": 0.2},
        {"path": "b/long.mp4", "fps": -1},
        {"path": "a.png", "caption": {"text": 5}},
        {"path": None},
        {"path": "a.png", "caption": "fine"},
        {"path": "a.png", "caption": "again"},
    ]
    lines = [json.dumps(row) for row in rows]
    (tree / "m.jsonl").write_text("\n".join([*lines, "[1, 2]", "{broken"]))
    report = build_index(str(tree / "m.jsonl"), tree / "i.parquet")
    listed = [json.loads(line)["reason"] for line in open(report.bad_path)]
    expected = [
        "relative path without", "relative path without", "relative path without", "relative path",
        "missing.mp4 does not exist", "broken.mp4", "start_s=9.0; below the file's 0.500 s",
        "start_s='soon'; a number", "13 frames from 0.0 s; 1 to 12 at 24 fps", "2.5 frames",
        "has both end_s and num_frames", "fps=-1; a number above 0",
        "a text, or {text, kind} of texts", "has no path", "the same clip comes twice: a.png",
        "is not a JSON object", "is not a JSON object",
    ]  # fmt: skip
    assert len(listed) == len(expected)
    for reason, part in zip(listed, expected, strict=True):
        assert part in reason
    assert list(ClipIndex.open(tree / "i.parquet").clip_id) == ["a.png"]


def test_manifests_without_paths_are_refused(tree):
    (tree / "m.csv").write_text("file,caption\na.png,x\n")
    with pytest.raises(
        BadInput, match="m.csv: column 'path' is missing; columns are file, caption"
    ):
        build_index(str(tree / "m.csv"), tree / "i.parquet")
    (tree / "m.parquet").write_bytes(b"PAR1junk")
    with pytest.raises(BadInput, match="m.parquet: is not Parquet"):
        build_index(str(tree / "m.parquet"), tree / "i.parquet")


def test_a_world_is_indexed_without_rendering(tmp_path, monkeypatch):
    out = tmp_path / "w.parquet"
    report = build_index("world:shapes?split=heldout&size=40&seed=3", out, workers=3)
    world = worlds.make("shapes", split="heldout", size=40, seed=3)
    index = ClipIndex.open(out)
    assert (report.clips, report.bad) == (40, 0)
    assert 0 < report.images < 40
    for i in (0, 7, 39):
        info, clip = world.info(i), world.clip(i)
        assert [(c.text, c.kind) for c in index.captions(i)] == [
            (c.text, c.kind) for c in info.captions
        ]
        assert index.extra(i)["truth"] == json.loads(json.dumps(info.truth))
        np.testing.assert_array_equal(index.read(i), clip.video_THWC)
    moving = int(np.argmax(index.num_frames))
    video = world.clip(moving).video_THWC
    part = index.read(moving, 1, 3, 2, crop=(8, 4, 32, 40))
    np.testing.assert_array_equal(part, video[1:6:2, 8:40, 4:44])
    half = (video.shape[1] // 2, video.shape[2] // 2)
    small = index.read(moving, 0, 2, resize=half)
    means = video[:2].reshape(2, half[0], 2, half[1], 2, 3).mean((2, 4))
    assert np.abs(small - means).max() <= 2  # rows and columns are rounded apart
    with pytest.raises(BadInput, match="world: unknown family 'shape'; did you mean 'shapes'"):
        build_index("world:shape", out)
    with pytest.raises(BadInput, match="unknown option 'sise'; did you mean 'size'"):
        build_index("world:shapes?sise=4", out)
