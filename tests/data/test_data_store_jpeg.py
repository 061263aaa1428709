"""The fast JPEG decoder gives Pillow's pixels, and what is not a JPEG of the right size is refused, never guessed."""

from __future__ import annotations

import io

import data_toy
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from robopolicy.data import codecs
from robopolicy.data.codecs import check_jpeg_end, decode_jpeg, decode_jpeg_pillow, encode_jpeg
from robopolicy.data.episode import EncodedFrames
from robopolicy.data.store import EpisodeStore
from robopolicy.errors import DataError


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth colours with noise, so that chroma subsampling and every coefficient matter."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    return np.clip(smooth + rng.normal(0, 12, smooth.shape), 0, 255).astype(np.uint8)


def both(blob: bytes, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    fast, slow = np.zeros(shape, np.uint8), np.ones(shape, np.uint8)
    decode_jpeg(blob, fast)
    decode_jpeg_pillow(blob, slow)
    return fast, slow


def test_the_fast_decoder_is_installed() -> None:
    """Otherwise the tests below compare Pillow with itself."""
    assert codecs.FAST_DECODER is not None


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"optimize": True}, {"restart_marker_rows": 1}])
def test_pixels_are_equal(subsampling: int, options: dict[str, object]) -> None:
    for height, width in ((96, 96), (37, 61), (8, 8), (1, 5), (120, 160)):
        given_picture = picture(height, width)
        for quality in (30, 95, 100):
            buffer = io.BytesIO()
            Image.fromarray(given_picture).save(buffer, "JPEG", quality=quality, subsampling=subsampling, **options)
            fast, slow = both(buffer.getvalue(), given_picture.shape)
            np.testing.assert_array_equal(fast, slow)
    other = np.empty_like(given_picture)  # control: the comparison can tell another picture
    decode_jpeg(encode_jpeg(picture(120, 160, 1)), other)
    assert not np.array_equal(other, slow)


@pytest.mark.parametrize("offset", [0, 1, 16, 32])
def test_the_address_of_the_output_changes_nothing(offset: int) -> None:
    given_picture = picture(96, 96)
    blob = encode_jpeg(given_picture)
    wanted = np.empty_like(given_picture)
    decode_jpeg_pillow(blob, wanted)
    memory = np.zeros(given_picture.size + 128, np.uint8)
    first = -memory.ctypes.data % 64 + offset
    out = memory[first : first + given_picture.size].reshape(given_picture.shape)
    decode_jpeg(blob, out)
    np.testing.assert_array_equal(out, wanted)
    assert not memory[:first].any()
    assert not memory[first + given_picture.size :].any()
    strided = np.zeros((96, 192, 3), np.uint8)
    decode_jpeg(blob, strided[:, ::2])
    np.testing.assert_array_equal(strided[:, ::2], wanted)
    assert not strided[:, 1::2].any()


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damage_has_one_outcome_whatever_is_installed(data: st.DataObject) -> None:
    """An error or the same pixels, from either decoder; nothing is written outside."""
    blob = bytearray(encode_jpeg(picture(16, 24)))
    kind = data.draw(st.sampled_from(["flip", "cut", "insert", "noise"]))
    place = data.draw(st.integers(0, len(blob) - 1))
    if kind == "flip":
        blob[place] ^= data.draw(st.integers(1, 255))
    elif kind == "cut":
        del blob[place:]
    elif kind == "insert":
        blob[place:place] = data.draw(st.binary(min_size=1, max_size=40))
    else:
        blob[20:] = data.draw(st.binary(max_size=300))
    results = []
    for decode in (decode_jpeg, decode_jpeg_pillow):
        memory = np.full(16 * 24 * 3 + 64, 77, np.uint8)
        out = memory[:-64].reshape(16, 24, 3)
        try:
            decode(bytes(blob), out)
            results.append(out.tobytes())
        except DataError:
            results.append(None)
        assert (memory[-64:] == 77).all()
    assert results[0] == results[1]


def test_a_size_that_the_header_does_not_have_is_refused_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    blob = encode_jpeg(picture(16, 24))

    def never(*arguments: object, **options: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(codecs, "decode_jpeg_pillow", never)
    monkeypatch.setattr(codecs.simplejpeg, "decode_jpeg", never)
    for shape in ((24, 16, 3), (16, 24, 1), (8, 8, 3), (1600, 2400, 3)):
        with pytest.raises(DataError, match="another size"):
            decode_jpeg(blob, np.empty(shape, np.uint8))
    with pytest.raises(DataError, match="no start of frame"):
        decode_jpeg(b"\xff\xd8\xff\xe0\x00\x00", np.empty((16, 24, 3), np.uint8))
    with pytest.raises(AssertionError, match="decoded"):  # control: the right size is decoded
        decode_jpeg(blob, np.empty((16, 24, 3), np.uint8))


def test_a_cut_jpeg_is_not_stored(tmp_path: object) -> None:
    blob = encode_jpeg(picture(12, 16))
    for sound in (blob, blob + bytes(3000), blob + b"\xff\xd9"):
        check_jpeg_end(sound, (12, 16, 3))
    with data_toy.create(f"{tmp_path}/s.zarr", cameras=("front",), codec="jpeg") as store:
        made = data_toy.episode(store, 0, 3)
        for blobs in ((blob, blob, blob[:-40]), (blob[:-120], blob, blob)):
            made.streams["image/front"] = EncodedFrames((12, 16, 3), blobs)
            with pytest.raises(DataError, match="not a readable JPEG"):
                store.append(made)
        made.streams["image/front"] = EncodedFrames((12, 16, 3), (blob, blob + bytes(9), blob))
        store.append(made)
        assert store.num_episodes == 1
    assert EpisodeStore.open(f"{tmp_path}/s.zarr").images("front").blobs(0, 1) == [blob]
