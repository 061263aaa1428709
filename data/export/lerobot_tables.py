"""Parquet files of a LeRobot v3.0 data set: rows of all episodes, the table of episodes, the tasks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.data.convert.lerobot_files import require_parquet

__all__ = ["TableFiles", "next_place", "write_episodes", "write_tasks"]


def next_place(chunk: int, file: int, chunk_files: int) -> tuple[int, int]:
    """(chunk, file) after this one."""
    return (chunk + 1, 0) if file + 1 >= chunk_files else (chunk, file + 1)


class TableFiles:
    """Tables of rows, one row group per episode, a new file when one is large enough."""

    def __init__(self, root: Path, template: str, file_mb: float, chunk_files: int):
        """Nothing is written yet."""
        self.root, self.template, self.limit, self.chunk_files = root, template, file_mb * 2**20, chunk_files
        self._place, self._size = (0, 0), 0
        self._writer: Any = None

    def add(self, columns: Mapping[str, NDArray[Any] | list[bytes]]) -> dict[str, int]:
        """Append the rows of one episode. -> ``chunk_index`` and ``file_index`` of the file that they are in."""
        parquet, _ = require_parquet()
        table = _table(columns)
        if self._writer is not None and self._size + table.nbytes > self.limit:
            self.close()
            self._place = next_place(*self._place, self.chunk_files)
        if self._writer is None:
            path = self.root / self.template.format(chunk_index=self._place[0], file_index=self._place[1])
            path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = parquet.ParquetWriter(path, table.schema, compression="snappy", use_dictionary=True)
        self._writer.write_table(table, row_group_size=max(table.num_rows, 1))
        self._size += table.nbytes
        return {"chunk_index": self._place[0], "file_index": self._place[1]}

    def close(self) -> None:
        """Finish the file that is being written."""
        if self._writer is not None:
            writer, self._writer, self._size = self._writer, None, 0
            writer.close()


def _table(columns: Mapping[str, NDArray[Any] | list[bytes]]) -> Any:
    """Numbers as plain columns or lists of fixed size, image files as {bytes, path}."""
    import pyarrow as pa

    arrays = {}
    for name, values in columns.items():
        if isinstance(values, list):
            kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
            arrays[name] = pa.array([{"bytes": blob, "path": None} for blob in values], kind)
        elif values.ndim == 2 and values.shape[1] > 1:
            flat = pa.array(np.ascontiguousarray(values).reshape(-1))
            arrays[name] = pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
        else:
            arrays[name] = pa.array(np.ascontiguousarray(values.reshape(len(values))))
    return pa.table(arrays)


def write_episodes(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """The table of episodes."""
    import pyarrow as pa

    parquet, _ = require_parquet()
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.Table.from_pylist([dict(row) for row in rows]), path, compression="snappy")


def write_tasks(path: Path, tasks: Sequence[str]) -> None:
    """The tasks; pandas, which LeRobot reads them with, finds the text as the index of the table."""
    import pyarrow as pa

    parquet, _ = require_parquet()
    index = "__index_level_0__"
    columns: list[dict[str, Any]] = [
        {"name": "task_index", "field_name": "task_index", "pandas_type": "int64", "numpy_type": "int64"},
        {"name": None, "field_name": index, "pandas_type": "unicode", "numpy_type": "object"},
    ]
    described = {
        "index_columns": [index],
        "column_indexes": [],
        "columns": [{**column, "metadata": None} for column in columns],
        "creator": {"library": "pyarrow", "version": pa.__version__},
        "pandas_version": "2.0.0",
    }
    table = pa.table({"task_index": pa.array(range(len(tasks)), pa.int64()), index: pa.array(list(tasks), pa.string())})
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table.replace_schema_metadata({"pandas": json.dumps(described)}), path)
