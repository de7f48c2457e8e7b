"""A .npy file that grows while it is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

ROWS_AT_ONCE = 1 << 20


class ArrayFile:
    """A .npy file that grows: rows are appended, and the header is written again with the final length."""

    def __init__(self, path: Path, dtype: Any, width: int | None = None) -> None:
        self.path = path
        self.dtype = np.dtype(dtype)
        self.width = width
        self.length = 0
        self.file: BinaryIO = path.open("w+b")
        self.write_header()

    def write_header(self) -> None:
        """Write the header in place. numpy leaves room in it for a longer length."""
        shape = (self.length,) if self.width is None else (self.length, self.width)
        header = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": shape}
        self.file.seek(0)
        np.lib.format.write_array_header_1_0(self.file, header)
        self.start = self.file.tell()
        self.file.seek(0, 2)

    def append(self, rows: NDArray[Any]) -> None:
        """Append rows."""
        self.file.write(np.ascontiguousarray(rows, dtype=self.dtype).tobytes())
        self.length += len(rows)

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """The rows from `start` to before `stop`."""
        size = self.dtype.itemsize * (self.width or 1)
        self.file.seek(self.start + start * size)
        rows = np.frombuffer(self.file.read((stop - start) * size), dtype=self.dtype)
        self.file.seek(0, 2)
        return rows if self.width is None else rows.reshape(-1, self.width)

    def remove(self, start: int, stop: int) -> None:
        """Take rows out in place: what follows moves up, a stretch at a time."""
        size = self.dtype.itemsize * (self.width or 1)
        target = start
        for source in range(stop, self.length, ROWS_AT_ONCE):
            rows = self.read(source, min(source + ROWS_AT_ONCE, self.length))
            self.file.seek(self.start + target * size)
            self.file.write(rows.tobytes())
            target += len(rows)
        self.length = target
        self.file.truncate(self.start + target * size)
        self.file.seek(0, 2)

    def close(self) -> None:
        """Write the final length and close."""
        begin = self.start
        self.write_header()
        assert self.start == begin, "the header has grown into the data"
        self.file.close()
