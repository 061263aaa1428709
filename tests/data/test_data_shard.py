"""Our shards and zarr-python's are the same files, in both directions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec

from robopolicy.data.codecs import decode_jpeg, encode_jpeg
from robopolicy.data.jpeg_codec import JpegCodec, register_jpeg_codec
from robopolicy.data.layout import ImageLayout, image_metadata, parse_image
from robopolicy.data.shard import ImageReader, ImageTail, encode_frames, shard_bytes
from robopolicy.data.zarr_fallback import ZarrImages
from robopolicy.errors import DataError, ShapeError

register_jpeg_codec()
FRAME = (12, 16, 3)


def frames(count: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (count, *FRAME), dtype=np.uint8)


def zarr_array(folder: Path, count: int, codec: str, checksum: bool = False) -> zarr.Array:
    """Laid out by zarr-python through its own interface."""
    after = [BloscCodec(cname="zstd")] if codec == "blosc" else []
    return zarr.create_array(
        str(folder),
        shape=(count, *FRAME),
        shards=(8, *FRAME),
        chunks=(1, *FRAME),
        dtype="uint8",
        compressors=[*after, Crc32cCodec()] if checksum else after or None,
        serializer=JpegCodec() if codec == "jpeg" else "auto",
        chunk_key_encoding={"name": "default", "separator": "."},
    )


def layout_of(folder: Path) -> ImageLayout:
    layout = parse_image(json.loads((folder / "zarr.json").read_text()))
    assert layout is not None
    return layout


@pytest.mark.parametrize("checksum", [False, True])
@pytest.mark.parametrize("codec", ["raw", "jpeg", "blosc"])
def test_ours_reads_what_zarr_wrote(tmp_path: Path, codec: str, checksum: bool) -> None:
    given = frames(21)
    array = zarr_array(tmp_path / "a", 21, codec, checksum)
    array[:] = given
    layout = layout_of(tmp_path / "a")
    assert (layout.codec, layout.shard_frames, layout.rows, layout.checksum) == (codec, 8, 21, checksum)
    read = ImageReader(tmp_path / "a", layout).read(0, 21)
    np.testing.assert_array_equal(read, array[:])
    rows = np.array([20, 3, 3, 8, 0])
    out = np.empty((5, *FRAME), np.uint8)
    ImageReader(tmp_path / "a", layout).gather(rows, out)
    np.testing.assert_array_equal(out, read[rows])
    assert np.array_equal(read, given) == (codec != "jpeg")


@pytest.mark.parametrize("checksum", [False, True])
@pytest.mark.parametrize("codec", ["raw", "jpeg", "blosc"])
def test_zarr_reads_what_ours_wrote(tmp_path: Path, codec: str, checksum: bool) -> None:
    given = frames(21)
    tail = ImageTail(tmp_path, ImageLayout(FRAME, 8, codec, 0, checksum=checksum), ())
    for part in (given[:5], given[5:17], given[17:]):
        tail, files = tail.extended(encode_frames(part, codec))
        for path, parts in files.items():
            path.write_bytes(b"".join(parts))
    assert len(tail.blobs) == 21 % 8
    (tmp_path / "zarr.json").write_text(json.dumps(image_metadata(tail.layout)))
    array = zarr.open_array(str(tmp_path), mode="r")
    np.testing.assert_array_equal(array[:], ImageReader(tmp_path, tail.layout).read(0, 21))
    reopened = ImageTail.open(tmp_path, tail.layout)
    assert reopened.blobs == tail.blobs


def test_a_raw_shard_is_byte_for_byte_zarrs(tmp_path: Path) -> None:
    """Apart from the order of the frames inside, which the specification leaves open (zarr writes in Morton order)."""
    given = frames(8)
    zarr_array(tmp_path / "a", 8, "raw")[:] = given
    theirs = (tmp_path / "a" / "c.0.0.0.0").read_bytes()
    assert theirs == b"".join(shard_bytes(encode_frames(given, "raw"), 8))


def test_frames_that_zarr_left_out_are_zeros(tmp_path: Path) -> None:
    """zarr-python does not store chunks that equal the fill value."""
    given = frames(8)
    given[[1, 4]] = 0
    array = zarr_array(tmp_path / "a", 8, "raw")
    array[:] = given
    assert (tmp_path / "a" / "c.0.0.0.0").stat().st_size < given.nbytes  # control: they are left out
    np.testing.assert_array_equal(ImageReader(tmp_path / "a", layout_of(tmp_path / "a")).read(0, 8), given)


def test_the_index_checksum_is_checked_unless_told_not_to(tmp_path: Path) -> None:
    layout = ImageLayout(FRAME, 8, "raw", 8)
    raw = bytearray(b"".join(shard_bytes(encode_frames(frames(8), "raw"), 8)))
    raw[-4] ^= 1
    (tmp_path / layout.key(0)).write_bytes(raw)
    with pytest.raises(DataError, match="does not match its checksum"):
        ImageReader(tmp_path, layout).read(0, 8)
    np.testing.assert_array_equal(ImageReader(tmp_path, layout, verify=False).read(0, 8), frames(8))


def test_rows_beyond_the_commit_are_refused(tmp_path: Path) -> None:
    layout = ImageLayout(FRAME, 8, "raw", 5)
    (tmp_path / layout.key(0)).write_bytes(b"".join(shard_bytes(encode_frames(frames(8), "raw"), 8)))
    assert len(ImageReader(tmp_path, layout).read(0, 5)) == 5
    with pytest.raises(ShapeError, match="no such frame"):
        ImageReader(tmp_path, layout).read(0, 6)


@pytest.mark.parametrize("variant", ["zstd", "no_shards", "index_start", "slash_keys", "two_frames"])
def test_unknown_layouts_go_through_zarr(tmp_path: Path, variant: str) -> None:
    """Anything that is not exactly what our reader knows is not touched by it."""
    settings = {
        "zstd": {"compressors": ZstdCodec()},
        "no_shards": {"shards": None},
        "index_start": {"shards": {"shape": (8, *FRAME), "index_location": "start"}},
        "slash_keys": {"chunk_key_encoding": {"name": "default", "separator": "/"}},
        "two_frames": {"chunks": (2, *FRAME)},
    }
    base = {
        "shards": (8, *FRAME),
        "chunks": (1, *FRAME),
        "compressors": None,
        "chunk_key_encoding": {"name": "default", "separator": "."},
    }
    given = frames(21)
    group = zarr.open_group(str(tmp_path / "g"), mode="w")
    array = group.create_array("image", shape=given.shape, dtype="uint8", **{**base, **settings[variant]})
    array[:] = given
    assert parse_image(json.loads((tmp_path / "g" / "image" / "zarr.json").read_text())) is None
    control = group.create_array("known", shape=given.shape, dtype="uint8", **base)
    assert parse_image(control.metadata.to_dict()) is not None
    slow = ZarrImages(tmp_path / "g", "image")
    np.testing.assert_array_equal(slow.read(2, 9), given[2:9])
    out = np.empty((3, *FRAME), np.uint8)
    slow.gather(np.array([20, 0, 7]), out)
    np.testing.assert_array_equal(out, given[[20, 0, 7]])


def test_jpeg_functions() -> None:
    gradient = np.add.outer(np.arange(12) * 8, np.arange(16) * 8).astype(np.uint8)[..., None].repeat(3, axis=2)
    out = np.empty_like(gradient)
    decode_jpeg(encode_jpeg(gradient), out)
    assert np.abs(out.astype(int) - gradient).max() <= 8
    with pytest.raises(DataError, match="another size"):
        decode_jpeg(encode_jpeg(gradient), np.empty((8, 16, 3), np.uint8))
    with pytest.raises(DataError, match="not a readable JPEG"):
        decode_jpeg(encode_jpeg(gradient)[:-300], out)
    with pytest.raises(DataError, match="cannot use these parameters"):
        JpegCodec(quality=0)
