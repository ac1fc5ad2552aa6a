"""Stores every file of a folder by pynetdicom: send.py HOST PORT FOLDER

The data set goes out as it stands in the file. Exit 1 when anything was not stored.
"""

import sys
from pathlib import Path

from pydicom import dcmread
from pynetdicom import AE, _config

# Send the file's own bytes instead of encoding the data set again.
_config.STORE_SEND_CHUNKED_DATASET = True


def main(host: str, port: str, folder: str) -> int:
    files = sorted(path for path in Path(folder).iterdir() if path.is_file())
    ae = AE(ae_title="PYNETDICOM")
    metas = [dcmread(path, stop_before_pixels=True).file_meta for path in files]
    for pair in sorted({(m.MediaStorageSOPClassUID, m.TransferSyntaxUID) for m in metas}):
        ae.add_requested_context(*pair)
    association = ae.associate(host, int(port), ae_title="CHASQUI")
    if not association.is_established:
        print("no association", file=sys.stderr)
        return 1
    stored = 0
    for path in files:
        status = association.send_c_store(path)
        if status and status.Status == 0x0000:
            stored += 1
        else:
            code = f"0x{status.Status:04X}" if status else "no answer"
            print(f"{path.name}: {code}", file=sys.stderr)
    association.release()
    print(f"stored {stored} of {len(files)}")
    return 0 if files and stored == len(files) else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
