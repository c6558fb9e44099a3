"""What the demo writes down: its hospital, its routes, its services."""

from __future__ import annotations

from typing import Final

SITE: Final = {
    "name": "Demo Hospital",
    "seed": "demo-25",
    "services": [
        {"name": "Main CT", "modality": "CT"},
        {"name": "Bedside CR", "modality": "CR"},
        {"name": "Ultrasound", "modality": "US"},
    ],
}
WHEN: Final = {"not": {"SeriesDescription": ["Dose Report*", "Localizer*"]}}
ROUTES: Final = """\
# What `diana-cli demo` ran; `diana-cli watch` runs it again, for as long as you like.
services:
  inbox:      # a watched folder: whatever is written into it, once it is whole
    ctype: ObservableDcmDir
    path: "{folder}/inbox"
  scanner:    # a DICOM port: what scanners send to it
    ctype: DicomListener
    aet: DIANA
    port: {port}
    path: "{folder}/spool"
  archive:    # DICOM files in a folder
    ctype: DcmDir
    path: "{folder}/archive"
  index:      # one row for each instance
    ctype: CsvFile
    fp: "{folder}/index.csv"
    level: instances
  pacs:       # searched over QIDO-RS, fetched from over RAD-69. To start it again, in this folder:
              # diana-cli serve path:pacs --http {pacs_http} --dicom {pacs_dicom} --aet PACS
    ctype: Trolley
    searcher: {{ctype: QidoRS, url: "http://127.0.0.1:{pacs_http}/dicom-web"}}
    downloader: {{ctype: Rad69, url: "http://127.0.0.1:{pacs_http}/rad69"}}
  research:   # stored on over DIMSE: C-STORE, and C-FIND to see that it is there. To start it again:
              # diana-cli serve path:research --http {research_http} --dicom {research_dicom} --aet RESEARCH
    ctype: DicomNode
    host: 127.0.0.1
    port: {research_dicom}
    aec: RESEARCH
{more}
routes:
  - name: folder
    source: inbox
    event: file
    when: {{not: {{SeriesDescription: ["Dose Report*", "Localizer*"]}}}}
    steps: [pseudonymize]
    to: [{to}]
  - name: modality
    source: scanner
    event: instance
    when: {{not: {{SeriesDescription: ["Dose Report*", "Localizer*"]}}}}
    steps: [pseudonymize]
    to: [{to}]

# cursors, journal and receipts
state: "{folder}/state"
"""
ORTHANC: Final = """\
  orthanc:    # as the environment says
    ctype: Orthanc
    url: ${ORTHANC_URL}
    user: ${ORTHANC_USER:-orthanc}
    password: ${ORTHANC_PASSWORD:-orthanc}
"""
