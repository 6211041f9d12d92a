"""One DuckDB for all runs of a test process: to open one takes 17 ms of processor, and a run opens up to three."""

from functools import cached_property
from typing import Any


class OneDatabase:
    """Stands for the module `duckdb` where runs open databases: each gets a connection to one that stays open.

    Runs make temporary views only, which end with their connection. Nothing in a test is large enough to be spilled.
    """

    def connect(self, *, config: dict[str, Any]) -> Any:
        self._config = config | {"temp_directory": "", "threads": 1}  # as all that tests compute
        return self._database.cursor()

    def __getattr__(self, name: str) -> Any:
        import duckdb

        return getattr(duckdb, name)

    @cached_property
    def _database(self) -> Any:
        import duckdb

        return duckdb.connect(config=self._config)

    def close(self) -> None:
        """Else DuckDB complains of leaks when the process ends."""
        if "_database" in vars(self):
            self._database.close()
