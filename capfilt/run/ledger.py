"""The ledger: which chunks of a folder are done and with which counts, rebuilt from the files' own footers.

The files are the truth and nothing else is kept; knows nothing about how they were made.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from capfilt.errors import RunStateError
from capfilt.run import files
from capfilt.run.commit import Footer, chunk_path, read_footer

READERS = 16  # footers are read side by side: on an object store each costs a round trip


class Ledger:
    """Chunk files of one folder (`pool` or `round-N/candidates`).

    Args:
        fingerprint: That every file must carry: of the settings, models and inputs that decide its content.
        redo: The stage to name in the advice when a file carries another.
        made_from: For candidates, the sha256 of the pool's chunks: a file made from another is deleted, so that a chunk whose
            rows were tried again is done again.
    """

    def __init__(self, folder: str, fingerprint: str, *, redo: str, made_from: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self._fingerprint = fingerprint
        self._redo = redo
        self._made_from = made_from

    def done(self) -> dict[str, Footer]:
        """Committed chunks by id. A torn file is set aside as `<name>.torn`, so its chunk is done again.

        Raises:
            RunStateError: If a file was made with other settings, models or inputs.
        """
        paths = files.listing(self.folder, "chunk-", ".parquet")
        with ThreadPoolExecutor(READERS) as readers:
            footers = list(readers.map(read_footer, paths))
        found: dict[str, Footer] = {}
        for path, footer in zip(paths, footers, strict=True):
            if footer is None or path != chunk_path(self.folder, footer.chunk_id):
                _set_aside(path)
            elif footer.fingerprint != self._fingerprint:
                raise RunStateError(
                    f"{path}: expected fingerprint {self._fingerprint}, found {footer.fingerprint}: it was made with other "
                    f"settings or models. Run again with --from {self._redo} to make this stage and what follows anew"
                )
            elif self._made_from is not None and footer.made_from != self._made_from.get(footer.chunk_id, footer.made_from):
                files.remove(path)
            else:
                found[footer.chunk_id] = footer
        return found

    def paths(self) -> list[str]:
        return files.listing(self.folder, "chunk-", ".parquet")


def _set_aside(path: str) -> None:
    data = files.get(path)
    if data is not None:
        files.put(path + ".torn", data)
        files.remove(path)
