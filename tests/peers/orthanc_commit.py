"""Orthanc stores a study in the box and asks for commitment: orthanc_commit.py HOST PORT DICOM_PORT FOLDER

Exit 1 unless Orthanc says that everything is committed, and that what never came is not.
"""

import json
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

DEADLINE = 90


def main(host: str, port: str, dicom_port: str, folder: str) -> int:
    with tempfile.TemporaryDirectory() as place:
        http_port = int(dicom_port) + 1
        config = {
            "StorageDirectory": place,
            "IndexDirectory": place,
            "DicomAet": "ORTHANC",
            "DicomPort": int(dicom_port),
            "HttpPort": http_port,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomModalities": {"box": ["CHASQUI", host, int(port)]},
        }
        file = Path(place) / "orthanc.json"
        file.write_text(json.dumps(config))
        # If we are killed, so is Orthanc.
        command = ["setpriv", "--pdeathsig", "KILL", "Orthanc", str(file)]
        orthanc = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            return story(f"http://127.0.0.1:{http_port}", Path(folder))
        finally:
            orthanc.terminate()
            orthanc.wait()


def call(url: str, body: bytes | None = None):
    request = urllib.request.Request(url, data=body)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def until(what: str, look):
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        try:
            found = look()
        except (urllib.error.URLError, ConnectionError):
            found = None
        if found:
            return found
        time.sleep(0.2)
    print(f"waited in vain for {what}", file=sys.stderr)
    sys.exit(1)


def story(orthanc: str, folder: Path) -> int:
    until("Orthanc", lambda: call(f"{orthanc}/system"))
    files = sorted(path for path in folder.iterdir() if path.is_file())
    stored = [call(f"{orthanc}/instances", path.read_bytes())["ID"] for path in files]
    call(f"{orthanc}/modalities/box/store", json.dumps(stored).encode())

    def committed(body: dict) -> dict:
        url = f"{orthanc}/modalities/box/storage-commitment"
        path = call(url, json.dumps(body).encode())["Path"]

        def answered():
            report = call(f"{orthanc}{path}")
            return report if report["Status"] != "Pending" else None

        return until("the box's answer", answered)

    report = committed({"Resources": stored})
    if report["Status"] != "Success" or len(report["Success"]) != len(files):
        print(report, file=sys.stderr)
        return 1
    report = committed({"DicomInstances": [["1.2.840.10008.5.1.4.1.1.2", "1.2.3.4.5.6"]]})
    if report["Status"] != "Failure" or report["Failures"][0]["FailureReason"] != 0x0112:
        print(report, file=sys.stderr)
        return 1
    print(f"committed {len(files)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
