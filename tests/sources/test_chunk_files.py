"""Chunks that lie in files of their own: the same values as written, and no other."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numcodecs import LZ4, Blosc, Delta, GZip, Zlib, Zstd
from zarr.codecs import BloscCodec, Crc32cCodec, GzipCodec, TransposeCodec, ZstdCodec
from zarr.storage import LocalStore

from streamem.errors import SourceError
from streamem.sources import as_source
from streamem.sources.chunk_files import _decoded_bytes, chunk_files
from streamem.sources.timing import Stopwatch

N, ROWS = 23, 5  # the last chunk overhangs

READ: dict[str, dict[str, Any]] = {
    "as it is": {"compressors": None},
    "zstd": {},
    "zstd with checksum": {"compressors": ZstdCodec(level=3, checksum=True)},
    "blosc": {"compressors": BloscCodec(cname="lz4", shuffle="bitshuffle")},
    "gzip": {"compressors": GzipCodec()},
    "2": {"zarr_format": 2},
    "2 as it is": {"zarr_format": 2, "compressors": None},
    "2 blosc": {"zarr_format": 2, "compressors": Blosc(cname="zstd")},
    "2 lz4": {"zarr_format": 2, "compressors": LZ4()},
    "2 zlib": {"zarr_format": 2, "compressors": Zlib()},
    "2 gzip": {"zarr_format": 2, "compressors": GZip()},
    "2, other separator": {"zarr_format": 2, "chunk_key_encoding": {"name": "v2", "separator": "/"}},
}
LEFT: dict[str, dict[str, Any]] = {
    "shards": {"shards": (2 * ROWS, 3)},
    "columns first": {"filters": TransposeCodec(order=(1, 0))},
    "checksums": {"compressors": [ZstdCodec(), Crc32cCodec()]},
    "another checksum": {"compressors": Crc32cCodec()},
    "split columns": {"chunks": (ROWS, 2)},
    "columns that overhang": {"chunks": (ROWS, 4)},
    "2 columns first": {"zarr_format": 2, "order": "F"},
    "2 with filter": {"zarr_format": 2, "filters": [Delta("f4")]},
}


def store(place: Any, array: np.ndarray[Any, Any], **options: Any) -> zarr.Array[Any]:
    """Write an array and open it again."""
    settings = {"chunks": (ROWS, *array.shape[1:]), "config": {"write_empty_chunks": True}} | options
    written = zarr.create_array(place, shape=array.shape, dtype=array.dtype, **settings)
    written[...] = array
    return zarr.open_array(place, mode="r")


def numbers(dtype: Any = "f4", columns: tuple[int, ...] = (3,)) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 2, (N, *columns)).astype(dtype)


def read(array: zarr.Array[Any], start: int, stop: int, strict: bool = True) -> np.ndarray[Any, Any]:
    """Read rows into memory that holds something else."""
    files = chunk_files(array, strict)
    assert files is not None
    out = np.full((stop - start, *array.shape[1:]), 77, array.dtype)
    files.read(start, stop, out, Stopwatch())
    return out


@pytest.mark.parametrize("layout", READ)
def test_read__gives_any_run_of_rows(tmp_path: Path, layout: str) -> None:
    values = numbers()
    array = store(tmp_path / "x.zarr", values, **READ[layout])
    for start, stop in itertools.combinations(range(N + 1), 2):
        np.testing.assert_array_equal(read(array, start, stop), values[start:stop])


@pytest.mark.parametrize("layout", ["as it is", "zstd", "2", "2 as it is"])
@pytest.mark.parametrize("dtype", ["?", "i1", "u2", "<i4", ">i4", "f2", "<f8", ">f8"])
def test_read__gives_any_dtype_as_stored(tmp_path: Path, layout: str, dtype: str) -> None:
    for columns in ((), (1,), (2, 2)):
        values = numbers(dtype, columns)
        array = store(tmp_path / f"{len(columns)}.zarr", values, **READ[layout])
        got = read(array, 3, N)
        assert got.dtype == array.dtype
        np.testing.assert_array_equal(got, values[3:])


def test_read__finds_an_array_in_a_group(tmp_path: Path) -> None:
    zarr.open_group(tmp_path / "g.zarr", mode="w")
    store(tmp_path / "g.zarr" / "deep" / "x", numbers())
    array = zarr.open_group(tmp_path / "g.zarr", mode="r")["deep/x"]
    assert isinstance(array, zarr.Array)
    np.testing.assert_array_equal(read(array, 0, N), numbers())


@pytest.mark.parametrize("layout", LEFT)
def test_other_layouts__are_left_to_zarr(tmp_path: Path, layout: str) -> None:
    array = store(tmp_path / "x.zarr", numbers(), **LEFT[layout])
    assert chunk_files(array, strict=True) is None


def test_other_byte_order__is_left_to_zarr(tmp_path: Path) -> None:
    from zarr.codecs import BytesCodec

    array = store(tmp_path / "x.zarr", numbers(), serializer=BytesCodec(endian="big"))
    assert chunk_files(array, strict=True) is None
    np.testing.assert_array_equal(as_source(array).blocks()[0].load().x, numbers())


class OwnStore(LocalStore):
    """A store that may do more than read a file."""


def test_other_stores__are_left_to_zarr(tmp_path: Path) -> None:
    store(tmp_path / "x.zarr", numbers())
    assert chunk_files(zarr.open_array(OwnStore(tmp_path / "x.zarr"), mode="r"), strict=True) is None
    assert chunk_files(zarr.create_array({}, shape=(3,), dtype="f4"), strict=True) is None


def test_missing_chunk__is_an_error_or_the_fill_value(tmp_path: Path) -> None:
    for version, fill, expected in ((3, 7.5, 7.5), (2, 7.5, 7.5), (2, None, 0)):
        place = tmp_path / f"{version}-{fill}.zarr"
        array = store(place, numbers(), zarr_format=version, fill_value=fill)
        next(file for file in place.rglob("*") if file.as_posix().endswith(("c/1/0", "1.0"))).unlink()
        got = read(array, 0, N, strict=False)
        assert np.all(got[ROWS : 2 * ROWS] == expected)
        np.testing.assert_array_equal(got[2 * ROWS :], numbers()[2 * ROWS :])
        with pytest.raises(FileNotFoundError, match="is gone"):
            read(array, 0, N)
        read(array, 2 * ROWS, N)


@pytest.mark.parametrize("layout", ["as it is", "zstd", "blosc", "gzip", "2", "2 lz4", "2 zlib"])
@pytest.mark.parametrize("change", [-1, 1])
def test_chunk__of_another_size_is_an_error(tmp_path: Path, layout: str, change: int) -> None:
    """One that was written for another number of rows; decoders fill a part of the memory, or want more."""
    array = store(tmp_path / "x.zarr", numbers(), **READ[layout])
    other = store(tmp_path / "y.zarr", numbers(), **READ[layout] | {"chunks": (ROWS + change, 3)})
    name = "0.0" if layout.startswith("2") else "c/0/0"
    (tmp_path / "x.zarr" / name).write_bytes((tmp_path / "y.zarr" / name).read_bytes())
    assert other.chunks != array.chunks
    for stop in (2, ROWS):
        with pytest.raises(ValueError, match="60"):
            read(array, 0, stop)


@pytest.mark.parametrize("layout", ["as it is", "zstd", "blosc", "gzip", "2 lz4"])
@pytest.mark.parametrize("kept", [0, 5, 0.9])
def test_chunk__cut_short_is_an_error(tmp_path: Path, layout: str, kept: float) -> None:
    values = np.random.default_rng(0).normal(size=(N, 300)).astype("f4")
    store(tmp_path / "x.zarr", values, **READ[layout])
    name = "0.0" if layout.startswith("2") else "c/0/0"
    file = tmp_path / "x.zarr" / name
    whole = file.read_bytes()
    file.write_bytes(whole[: int(kept if kept >= 1 else kept * len(whole))])
    with pytest.raises(SourceError, match=r"Block 0 \(rows .* of .*x\.zarr\)"):
        as_source(tmp_path / "x.zarr").blocks()[0].load()


@pytest.mark.parametrize("n_bytes", [0, 1, 255, 256, 300, 65_791, 65_792, 10**6])
@pytest.mark.parametrize("codec", [Zstd(), Zstd(checksum=True), Blosc(), Blosc(cname="lz4", shuffle=0)])
def test_decoded_bytes__are_what_a_chunk_says(n_bytes: int, codec: Any) -> None:
    stored = np.frombuffer(codec.encode(np.random.default_rng(0).bytes(n_bytes)), np.uint8)
    said = _decoded_bytes(codec.codec_id, stored)
    assert said == (n_bytes if len(stored) >= 18 or codec.codec_id == "blosc" else None)
    assert _decoded_bytes(codec.codec_id, stored[:10]) is None


def test_read__of_a_frame_that_does_not_tell_its_size(tmp_path: Path) -> None:
    """Streaming writers leave it out (RFC 8878). Here one block is stored as it is."""
    values = numbers(columns=(30,))
    array = store(tmp_path / "x.zarr", values)
    content = np.ascontiguousarray(values[:ROWS]).tobytes()
    for held in (content, content[:-4]):
        block = (len(held) << 3 | 1).to_bytes(3, "little") + held
        frame = bytes.fromhex("28b52ffd") + bytes([0, 0x58]) + block
        assert _decoded_bytes("zstd", np.frombuffer(frame, np.uint8)) is None
        (tmp_path / "x.zarr" / "c" / "0" / "0").write_bytes(frame)
        if held is content:
            np.testing.assert_array_equal(read(array, 0, N), values)
        else:
            with pytest.raises(ValueError, match="596 bytes of values, and a chunk 600"):
                read(array, 0, N)
