"""The finished splits in the formats that other trainers and viewers read.

`samples` turns a run's splits into plain messages; each other module writes them in one owner's format. All write a
record at a time, so memory does not grow with the data.
"""

from safer_steer.exports.formats import FORMATS, export

__all__ = ["FORMATS", "export"]
