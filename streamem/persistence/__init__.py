"""What outlives a process: model files, and checkpoints of fits. Loading them runs no code from them.

`archives` is the file format, `encoding` turns values into it, `checkpoints` keeps a folder of such files.
"""

from __future__ import annotations

from streamem.persistence.archives import SCHEMA, Archive, read_archive, write_archive
from streamem.persistence.checkpoints import Checkpoint, Checkpoints
from streamem.persistence.encoding import Encoded, decode, encode

__all__ = [
    "SCHEMA",
    "Archive",
    "Checkpoint",
    "Checkpoints",
    "Encoded",
    "decode",
    "encode",
    "read_archive",
    "write_archive",
]
