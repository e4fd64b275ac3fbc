import numpy as np
import pytest

from streamem.errors import InputError
from streamem.sizes import format_bytes, parse_bytes


@pytest.mark.parametrize(
    "text, n_bytes",
    [
        ("2GB", 2_000_000_000),
        ("1 GiB", 2**30),
        ("512mib", 512 * 2**20),
        ("1.5k", 1500),
        ("2e9", 2_000_000_000),
        ("9007199254740993", 2**53 + 1),
        ("7 B", 7),
        (4096, 4096),
        (np.int64(4096), 4096),
        (None, None),
    ],
)
def test_parse_bytes__reads_what_people_write(text, n_bytes):
    assert parse_bytes(text) == n_bytes


@pytest.mark.parametrize(
    "text", ["", "GB", "2 XB", "2iB", "-1GB", "0", 0, -5, 1.5, True, [], "1GB 2GB", "1e999"]
)
def test_parse_bytes__refuses_what_is_no_positive_size(text):
    with pytest.raises(InputError, match="2GB"):
        parse_bytes(text)


@pytest.mark.parametrize("n_bytes", [1, 999, 1000, 123_456, 999_499_999, 10**12, 2**60])
def test_format_bytes__keeps_three_digits(n_bytes):
    assert parse_bytes(format_bytes(n_bytes)) == pytest.approx(n_bytes, rel=6e-3)
