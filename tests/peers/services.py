"""The services beside storage, asked for by pynetdicom. Exit 1 when anything is not as it should be.

services.py commit HOST PORT OWN_PORT FOLDER   stores a folder, asks for commitment twice: the answer
                                               comes on the same association, then on a new one
services.py ask HOST PORT                      asks, as LATECOMER, for commitment to what never came, and goes
services.py listen HOST PORT OWN_PORT          waits as LATECOMER for what is committed
services.py worklist HOST PORT CHARSET NAME    prints what matches a name, asked for in a character set
services.py step HOST PORT STUDY SOP...        performs a step that makes these instances
"""

import json
import sys
import threading
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from pynetdicom import AE, evt
from pynetdicom.sop_class import (
    ModalityPerformedProcedureStep,
    ModalityWorklistInformationFind,
    StorageCommitmentPushModel,
)

WELL_KNOWN = "1.2.840.10008.1.20.1.1"
DEADLINE = 60


def check(condition: bool, what: str) -> None:
    if not condition:
        print(f"not so: {what}", file=sys.stderr)
        sys.exit(1)


def associate(ae: AE, host: str, port: str, handlers=()):
    association = ae.associate(host, int(port), ae_title="CHASQUI", evt_handlers=list(handlers))
    check(association.is_established, "an association is accepted")
    return association


def commit(host: str, port: str, own_port: str, folder: str) -> None:
    files = sorted(path for path in Path(folder).iterdir() if path.is_file())
    heads = [dcmread(path, stop_before_pixels=True) for path in files]
    heard, told = [], threading.Event()

    def on_event(event):
        heard.append((event.event_type, event.event_information, event.assoc.is_requestor))
        told.set()
        return 0x0000, None

    handlers = [(evt.EVT_N_EVENT_REPORT, on_event)]
    ae = AE(ae_title="PYNETDICOM")
    ae.add_supported_context(StorageCommitmentPushModel, scu_role=False, scp_role=True)
    server = ae.start_server(("127.0.0.1", int(own_port)), block=False, evt_handlers=handlers)
    for head in heads:
        ae.add_requested_context(head.SOPClassUID, head.file_meta.TransferSyntaxUID)
    ae.add_requested_context(StorageCommitmentPushModel)
    association = associate(ae, host, port, handlers)
    for path in files:
        check(association.send_c_store(path).Status == 0x0000, f"{path.name} is stored")

    def ask(known: bool) -> Dataset:
        request = Dataset()
        request.TransactionUID = generate_uid()
        request.ReferencedSOPSequence = []
        for head in heads:
            item = Dataset()
            item.ReferencedSOPClassUID = head.SOPClassUID
            item.ReferencedSOPInstanceUID = head.SOPInstanceUID if known else generate_uid()
            request.ReferencedSOPSequence.append(item)
        status, _ = association.send_n_action(request, 1, StorageCommitmentPushModel, WELL_KNOWN)
        check(status.Status == 0x0000, "the request is taken")
        return request

    request = ask(known=True)
    check(told.wait(DEADLINE), "an event on the same association")
    event_type, said, is_same = heard.pop()
    check(is_same, "it comes on the association that asked")
    check(event_type == 1, "everything is committed")
    check(said.TransactionUID == request.TransactionUID, "it is the same transaction")
    check(len(said.ReferencedSOPSequence) == len(files), "all are named")

    told.clear()
    request = ask(known=False)
    association.release()
    check(told.wait(DEADLINE), "an event on a new association")
    event_type, said, is_same = heard.pop()
    check(not is_same, "it comes on a new association")
    check(event_type == 2, "nothing is committed")
    reasons = {item.FailureReason for item in said.FailedSOPSequence}
    check(reasons == {0x0112}, "no such instance")
    check("ReferencedSOPSequence" not in said, "nothing is promised")
    server.shutdown()
    print(f"committed {len(files)}")


def ask(host: str, port: str) -> None:
    ae = AE(ae_title="LATECOMER")
    ae.add_requested_context(StorageCommitmentPushModel)
    association = associate(ae, host, port)
    item = Dataset()
    item.ReferencedSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    item.ReferencedSOPInstanceUID = generate_uid()
    request = Dataset()
    request.TransactionUID = generate_uid()
    request.ReferencedSOPSequence = [item]
    status, _ = association.send_n_action(request, 1, StorageCommitmentPushModel, WELL_KNOWN)
    check(status.Status == 0x0000, "the request is taken")
    association.release()
    print("asked")


def listen(_host: str, _port: str, own_port: str) -> None:
    heard, told = [], threading.Event()

    def on_event(event):
        heard.append(event.event_information)
        told.set()
        return 0x0000, None

    ae = AE(ae_title="LATECOMER")
    ae.add_supported_context(StorageCommitmentPushModel, scu_role=False, scp_role=True)
    handlers = [(evt.EVT_N_EVENT_REPORT, on_event)]
    server = ae.start_server(("127.0.0.1", int(own_port)), block=False, evt_handlers=handlers)
    check(told.wait(DEADLINE), "an event")
    server.shutdown()
    print(f"failed {len(heard[0].FailedSOPSequence)}")


def worklist(host: str, port: str, charset: str, name: str) -> None:
    ae = AE(ae_title="PYNETDICOM")
    ae.add_requested_context(ModalityWorklistInformationFind)
    association = associate(ae, host, port)
    query = Dataset()
    query.SpecificCharacterSet = charset.split("\\")
    query.PatientName = name
    query.PatientID = ""
    query.StudyInstanceUID = ""
    query.AccessionNumber = ""
    query.RequestedProcedureDescription = ""
    step = Dataset()
    step.ScheduledStationAETitle = "PYNETDICOM"
    step.ScheduledProcedureStepStartDate = ""
    step.Modality = "CT"
    query.ScheduledProcedureStepSequence = [step]
    found = []
    for status, identifier in association.send_c_find(query, ModalityWorklistInformationFind):
        check(status and status.Status in (0xFF00, 0x0000), f"a match or the end, not {status}")
        if status.Status == 0xFF00:
            identifier.decode()
            found.append(
                {
                    "charset": str(identifier.get("SpecificCharacterSet", "")),
                    "name": str(identifier.PatientName),
                    "study": identifier.StudyInstanceUID,
                    "station": identifier.ScheduledProcedureStepSequence[0].ScheduledStationAETitle,
                }
            )
    association.release()
    print(json.dumps(found))


def step(host: str, port: str, study: str, *instances: str) -> None:
    ae = AE(ae_title="PYNETDICOM")
    ae.add_requested_context(ModalityPerformedProcedureStep, ExplicitVRLittleEndian)
    association = associate(ae, host, port)
    scheduled = Dataset()
    scheduled.StudyInstanceUID = study
    begun = Dataset()
    begun.PerformedProcedureStepStatus = "IN PROGRESS"
    begun.ScheduledStepAttributesSequence = [scheduled]
    begun.PerformedSeriesSequence = []
    sop = generate_uid()

    def create() -> int:
        status, _ = association.send_n_create(begun, ModalityPerformedProcedureStep, sop)
        return status.Status

    check(create() == 0x0000, "the step begins")
    check(create() == 0x0111, "it begins once")
    series = Dataset()
    series.SeriesInstanceUID = generate_uid()
    series.ReferencedImageSequence = []
    for instance in instances:
        item = Dataset()
        item.ReferencedSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
        item.ReferencedSOPInstanceUID = instance
        series.ReferencedImageSequence.append(item)
    ended = Dataset()
    ended.PerformedProcedureStepStatus = "COMPLETED"
    ended.PerformedSeriesSequence = [series]

    def change() -> Dataset:
        status, _ = association.send_n_set(ended, ModalityPerformedProcedureStep, sop)
        return status

    check(change().Status == 0x0000, "the step ends")
    again = change()
    check((again.Status, again.ErrorID) == (0x0110, 0xA710), "it has ended")
    association.release()
    print("performed")


if __name__ == "__main__":
    verbs = {"commit": commit, "ask": ask, "listen": listen, "worklist": worklist, "step": step}
    verbs[sys.argv[1]](*sys.argv[2:])
