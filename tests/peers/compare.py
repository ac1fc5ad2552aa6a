"""Compares two folders by pydicom's reading: compare.py ONE OTHER

Exit 0 when both hold the same instances, each with the same SOP class, the same transfer syntax
and the same bytes after group 2.
"""

import sys
from pathlib import Path

from pydicom.filereader import read_file_meta_info


def instances(folder: str) -> dict[str, tuple[str, str, bytes]]:
    found = {}
    for path in sorted(path for path in Path(folder).iterdir() if path.is_file()):
        meta = read_file_meta_info(path)
        # Preamble and prefix, the group length element, and what it counts (PS3.10 7.1).
        data_set_at = 128 + 4 + 12 + meta.FileMetaInformationGroupLength
        found[meta.MediaStorageSOPInstanceUID] = (
            meta.MediaStorageSOPClassUID,
            meta.TransferSyntaxUID,
            path.read_bytes()[data_set_at:],
        )
    return found


def main(one: str, other: str) -> int:
    left, right = instances(one), instances(other)
    differing = sorted(uid for uid in left.keys() | right.keys() if left.get(uid) != right.get(uid))
    for uid in differing:
        where = "differs" if uid in left and uid in right else "is on one side only"
        print(f"{uid} {where}", file=sys.stderr)
    print(f"{len(left)} and {len(right)} instances, {len(differing)} differ")
    return 0 if left and not differing else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
