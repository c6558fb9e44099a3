"""``diana.server`` over real sockets: protocols by the book, and requests that mean harm."""

from __future__ import annotations

import http.client
import json
import random
import socket
import ssl
import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import requests
from attrs import define
from pydicom.uid import JPEG2000Lossless, RLELossless

from diana.apis import DcmDir, Memory
from diana.dixel import Dixel
from diana.exceptions import ConfigError, GatewayConnectionError, IncompleteTransfer
from diana.server import BasicAuth, BearerAuth, HttpFace, Limits
from diana.utils.dicom import DicomLevel, Query, Ref
from diana.utils.endpoint import Endpoint
from diana.utils.gateways.multipart import PartReader, PieceSource, boundary_of
from diana.utils.gateways.multipart_write import OutPart, body_pieces, content_type
from diana.utils.gateways.rad69_message import Wanted, build_request, parse_response
from diana.utils.gateways.xml_safe import parse_xml
from tests.fakes.make import instance

STUDY = "1.2.840.99.1"
SERIES = f"{STUDY}.1"
ONE = f"{SERIES}.1"
AT = f"/dicom-web/studies/{STUDY}/series/{SERIES}/instances/{ONE}"
DICOM = 'multipart/related; type="application/dicom"'


@pytest.fixture
def memory() -> Memory:
    found = Memory()
    for number in (1, 2, 3):
        found.put(instance(number, study=STUDY, size=16))
    return found


@pytest.fixture
def face(memory: Memory) -> Iterator[HttpFace]:
    with HttpFace(memory) as found:
        yield found


def parts(answer: requests.Response) -> list[Any]:
    kind = answer.headers["Content-Type"]
    return list(PartReader(PieceSource((answer.content,)), boundary_of(kind)))


def packed(*items: Dixel | bytes, boundary: str = "b0") -> dict[str, Any]:
    """Return headers and body of an upload."""
    files = [one if isinstance(one, bytes) else one.file or b"" for one in items]
    body = b"".join(body_pieces([OutPart(one, {"Content-Type": "application/dicom"}) for one in files], boundary))
    return {"headers": {"Content-Type": content_type(boundary, "application/dicom")}, "data": body}


class TestRetrieve:
    """WADO-RS and WADO-URI give what is stored."""

    def test_study_has_every_file_with_its_length(self, face: HttpFace, memory: Memory) -> None:
        answer = requests.get(
            f"{face.url}/dicom-web/studies/{STUDY}", headers={"Accept": f"{DICOM}; transfer-syntax=*"}
        )
        found = parts(answer)
        assert sorted(one.blob.read() for one in found) == sorted(
            one.file or b"" for one in memory.pull(Ref(DicomLevel.STUDIES, study=STUDY))
        )
        assert all(int(one.headers["content-length"]) == len(one) for one in found)

    def test_implicit_little_endian_is_made_when_asked_for(self, face: HttpFace) -> None:
        accept = f"{DICOM}; transfer-syntax=1.2.840.10008.1.2"
        (part,) = parts(requests.get(face.url + AT, headers={"Accept": accept}))
        assert part.headers["content-type"].endswith("=1.2.840.10008.1.2")

    @pytest.mark.parametrize("accept", [f"{DICOM}; transfer-syntax=1.2.840.10008.1.2.4.90", "image/gif", "text/html"])
    def test_what_cannot_be_given_is_not_acceptable(self, face: HttpFace, accept: str) -> None:
        assert requests.get(face.url + AT, headers={"Accept": accept}).status_code == 406

    def test_instance_under_another_study_is_not_there(self, tmp_path: Path) -> None:
        folder = DcmDir(str(tmp_path))
        folder.put(instance(1, study=STUDY))
        with HttpFace(folder) as face:
            assert requests.get(face.url + AT).status_code == 200
            assert requests.get(face.url + AT.replace("studies/1.2.840.99.1/", "studies/1.9/")).status_code == 404

    @pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
    def test_compressed_frames_come_as_stored_or_decoded(self, face: HttpFace, memory: Memory, syntax: Any) -> None:
        one = compressed(syntax)
        memory.put(one)
        url = f"{face.url}/dicom-web/studies/1.2.4/series/1.2.4.1/instances/1.2.4.1.1"
        stored = parts(requests.get(f"{url}/frames/2,1", headers={"Accept": "multipart/related; type=*/*"}))
        assert len(stored) == 2
        assert stored[0].headers["content-type"].startswith(("image/dicom-rle", "image/jp2"))
        accept = 'multipart/related; type="application/octet-stream"; transfer-syntax=1.2.840.10008.1.2.1'
        decoded = parts(requests.get(f"{url}/frames/2,1", headers={"Accept": accept}))
        assert [part.blob.read() for part in decoded] == [bytes([2]) * 4096, bytes([1]) * 4096]
        assert len(parts(requests.get(f"{url}/bulkdata/7FE00010"))) == 2
        assert requests.get(f"{url}/frames/3").status_code == 404
        assert requests.get(f"{url}/frames/2/rendered").content[:3] == b"\xff\xd8\xff"

    def test_wado_uri_gives_file_or_picture(self, face: HttpFace, memory: Memory) -> None:
        url = f"{face.url}/wado?requestType=WADO&studyUID={STUDY}&seriesUID={SERIES}&objectUID={ONE}"
        assert (
            requests.get(f"{url}&contentType=application/dicom").content
            == memory.get(Ref(DicomLevel.INSTANCES, instance=ONE), view="file").file
        )
        assert requests.get(f"{url}&contentType=image/png&rows=4").content[:4] == b"\x89PNG"
        assert requests.get(url.replace("WADO&", "X&")).status_code == 400

    def test_head_has_no_body(self, face: HttpFace) -> None:
        answer = requests.head(f"{face.url}/dicom-web/studies/{STUDY}")
        assert (answer.status_code, answer.content) == (200, b"")


def compressed(syntax: Any) -> Dixel:
    from io import BytesIO

    from pydicom import dcmread

    plain = instance(1, study="1.2.4", size=64, NumberOfFrames=2, PixelData=bytes([1]) * 4096 + bytes([2]) * 4096)
    ds = dcmread(BytesIO(plain.file or b""))
    if syntax == JPEG2000Lossless:
        pytest.importorskip("openjpeg", reason="pylibjpeg-openjpeg is not installed")
    ds.compress(syntax, generate_instance_uid=False)
    out = BytesIO()
    ds.save_as(out)
    return Dixel.from_pydicom(ds, file=out.getvalue())


class TestMetadata:
    """Metadata refer to their bulk data, all of it."""

    def test_nested_bulk_data_can_be_fetched(self, face: HttpFace, memory: Memory) -> None:
        from pydicom.dataset import Dataset

        item = Dataset()
        item.IconImageSequence = [Dataset()]
        item.IconImageSequence[0].EncapsulatedDocument = b"x" * 3000
        memory.put(instance(7, study=STUDY, IconImageSequence=item.IconImageSequence))
        (model,) = requests.get(f"{face.url}{AT[: -len(ONE)]}{SERIES}.7/metadata").json()
        uri = model["00880200"]["Value"][0]["00420011"]["BulkDataURI"]
        assert requests.get(uri).content == b"x" * 3000
        assert requests.get(uri.replace("00420011", "00420012")).status_code == 404

    def test_values_that_json_cannot_hold_are_texts(self, face: HttpFace, memory: Memory) -> None:
        memory.put(instance(8, study=STUDY, RealWorldValueSlope=float("inf")))
        (model,) = requests.get(f"{face.url}{AT[: -len(ONE)]}{SERIES}.8/metadata").json()
        assert model["00409225"]["Value"] == ["inf"]


class TestSearch:
    """QIDO-RS and MINT search honestly."""

    def test_paging_returns_each_once(self, face: HttpFace) -> None:
        url = f"{face.url}/dicom-web/instances?includefield=all&limit=1&offset="
        found = [requests.get(url + str(at)).json() for at in range(4)]
        assert len({one[0]["00080018"]["Value"][0] for one in found[:3]}) == 3
        assert found[3] == []

    def test_more_than_one_answer_holds_is_said(self, memory: Memory) -> None:
        with HttpFace(memory, limits=Limits(results=2)) as face:
            answer = requests.get(f"{face.url}/dicom-web/instances")
            assert len(answer.json()) == 2
            assert answer.headers["Warning"].startswith("299 ")
            assert requests.get(f"{face.url}/mint/studies?QueryLevel=INSTANCE").status_code == 400

    def test_fuzzy_matching_is_said_to_be_ignored(self, face: HttpFace) -> None:
        answer = requests.get(f"{face.url}/dicom-web/studies?PatientName=test*&fuzzymatching=true")
        assert len(answer.json()) == 1
        assert "fuzzymatching" in answer.headers["Warning"]

    @pytest.mark.parametrize("key", ["ModalitiesInStudy=OT", "00080061=OT", f"StudyInstanceUID=1.1,{STUDY}"])
    def test_keys_that_the_endpoint_does_not_keep_are_found(self, face: HttpFace, key: str) -> None:
        assert len(requests.get(f"{face.url}/dicom-web/studies?{key}").json()) == 1
        assert len(requests.get(f"{face.url}/dicom-web/series?{key}").json()) == 1

    @pytest.mark.parametrize(
        "query",
        [
            "Foo=1",
            "00091001=x",
            "limit=-1",
            "limit=x",
            "a.b=c",
            "PatientName=%3E3",
            "PixelData=a",
            "=&==",
            "fuzzymatching=7",
        ],
    )
    def test_what_cannot_be_honoured_is_refused_without_echo(self, face: HttpFace, query: str) -> None:
        answer = requests.get(f"{face.url}/dicom-web/studies?PatientID=Secretly&{query}")
        assert answer.status_code == 400
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert "Secretly" not in answer.text

    def test_mint_metadata_name_binary_items_that_can_be_fetched(self, face: HttpFace, memory: Memory) -> None:
        root = parse_xml(requests.get(f"{face.url}/mint/studies/{STUDY}/DICOM/metadata").content)
        items = [one.get("bid") for one in root.iter() if one.get("bid")]
        got = [requests.get(f"{face.url}/mint/studies/{STUDY}/DICOM/binaryitems/{one}").content for one in items]
        assert sorted(got) == [bytes([number]) * 256 for number in (1, 2, 3)]
        assert requests.get(f"{face.url}/mint/studies/{STUDY}/DICOM/binaryitems/77").status_code == 404


class TestStore:
    """STOW-RS says of each instance what became of it."""

    def test_all_stored_is_200_with_references(self, face: HttpFace, memory: Memory) -> None:
        answer = requests.post(f"{face.url}/dicom-web/studies", **packed(instance(4, study=STUDY), instance(5)))
        assert answer.status_code == 200
        assert len(answer.json()["00081199"]["Value"]) == 2
        assert memory.exists(Ref(DicomLevel.INSTANCES, instance="1.2.3.1.5"))

    def test_some_refused_is_202_and_none_409(self, face: HttpFace) -> None:
        other = instance(1, study=STUDY, size=8)
        cut = (instance(6).file or b"")[:-20]
        some = requests.post(f"{face.url}/dicom-web/studies", **packed(other, cut, b"no DICOM", instance(5)))
        assert some.status_code == 202
        reasons = [one["00081197"]["Value"][0] for one in some.json()["00081198"]["Value"]]
        assert sorted(reasons) == [0x0111, 0xC000, 0xC000]
        none = requests.post(f"{face.url}/dicom-web/studies", **packed(other))
        assert none.status_code == 409
        wrong = requests.post(f"{face.url}/dicom-web/studies/1.2.99", **packed(instance(5)))
        assert wrong.json()["00081198"]["Value"][0]["00081197"]["Value"] == [0xA900]

    @pytest.mark.parametrize(
        ("kind", "body", "status"),
        [
            ("text/plain", b"x", 415),
            ("multipart/related", b"x", 415),
            ('multipart/related; boundary="b"; boundary="c"', b"x", 415),
            (f'{DICOM}; boundary="b"', b"", 400),
            (f'{DICOM}; boundary="b"', b"--b\r\n\r\nabc", 400),
            (f'{DICOM}; boundary="b"', b"--b\r\nContent-Length: 99999\r\n\r\nabc\r\n--b--", 400),
            (f'{DICOM}; boundary="b"', b"--b\r\nContent-Type: text/html\r\n\r\nabc\r\n--b--\r\n", 415),
        ],
    )
    def test_damaged_uploads_are_refused(self, face: HttpFace, kind: str, body: bytes, status: int) -> None:
        answer = requests.post(f"{face.url}/dicom-web/studies", data=body, headers={"Content-Type": kind})
        assert answer.status_code == status

    def test_too_large_upload_is_413(self, memory: Memory) -> None:
        with HttpFace(memory, limits=Limits(body=3000)) as face:
            assert requests.post(f"{face.url}/dicom-web/studies", **packed(b"0" * 5000)).status_code == 413

    def test_nothing_is_left_in_the_temporary_folder(
        self, face: HttpFace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        large = instance(1, study="1.2.6", size=3000)
        assert requests.post(f"{face.url}/dicom-web/studies", **packed(large, b"1" * (6 << 20))).status_code == 202
        assert list(tmp_path.iterdir()) == []


class TestRad69:
    """RAD-69 answers plain and MTOM requests."""

    @pytest.mark.parametrize("mtom", [False, True])
    def test_partial_success_names_what_is_missing(self, face: HttpFace, memory: Memory, mtom: bool) -> None:
        wanted = [Wanted(STUDY, SERIES, uid) for uid in (ONE, f"{SERIES}.2", "1.2.99")]
        request = build_request(wanted, "urn:x")
        kind, body = "application/soap+xml", request
        if mtom:
            kind = content_type("m", "application/xop+xml", start="<r>")
            body = b"".join(body_pieces([OutPart(request, {"Content-ID": "<r>"})], "m"))
        answer = requests.post(f"{face.url}/rad69", data=body, headers={"Content-Type": kind})
        root, *files = parts(answer)
        message = parse_response(root.blob.read(), "answer")
        assert message.status == "PartialSuccess"
        assert [(one.code, one.instance) for one in message.problems] == [("XDSMissingDocument", "1.2.99")]
        by_cid = {one.headers["content-id"].strip("<>"): one.blob.read() for one in files}
        assert {by_cid[one.cid] for one in message.documents} == {
            memory.get(Ref(DicomLevel.INSTANCES, instance=one.instance), view="file").file for one in message.documents
        }

    def test_nothing_there_is_a_plain_failure(self, face: HttpFace) -> None:
        answer = self.asked(face, build_request([Wanted(STUDY, SERIES, "1.2.99")], "urn:x"))
        assert answer.headers["Content-Type"].startswith("application/soap+xml")
        assert parse_response(answer.content, "answer").status == "Failure"

    def test_transfer_syntax_that_cannot_be_made_is_reported(self, face: HttpFace) -> None:
        request = build_request([Wanted(STUDY, SERIES, ONE)], "urn:x", syntaxes=["1.2.840.10008.1.2.4.90"])
        (problem,) = parse_response(self.asked(face, request).content, "answer").problems
        assert problem.code == "urn:dicom:wado:0007"

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"<a/>",
            b"not xml",
            b"<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>",
            b"<a>" * 5000,
            b'<e:Envelope xmlns:e="x"><e:Body/></e:Envelope>',
        ],
    )
    def test_damaged_requests_are_faults_of_the_sender(self, face: HttpFace, body: bytes) -> None:
        answer = self.asked(face, body)
        assert answer.status_code == 400
        assert parse_response(answer.content, "answer").fault == "Sender"

    @staticmethod
    def asked(face: HttpFace, body: bytes) -> requests.Response:
        return requests.post(f"{face.url}/rad69", data=body, headers={"Content-Type": "application/soap+xml"})


@define(eq=False)
class Broken(Memory):
    """Fail in ways that the far end of a wire does."""

    error: ClassVar[Exception] = IncompleteTransfer("cut")
    after: ClassVar[int] = 0

    def _pull(self, ref: Ref) -> Iterator[Dixel]:
        for number, one in enumerate(super()._pull(ref)):
            if number >= self.after:
                raise self.error
            yield one


class TestFailure:
    """Failures have a status, or break the answer off; none passes for whole."""

    def broken(self, memory: Memory, cause: Exception, after: int) -> Broken:
        kind = type("Kind", (Broken,), {"error": cause, "after": after})
        found: Broken = kind()
        for one in memory.pull(Ref(DicomLevel.STUDIES, study=STUDY)):
            found.put(one)
        return found

    @pytest.mark.parametrize(
        ("error", "status"),
        [
            (GatewayConnectionError("10.1.2.3 is down"), 503),
            (IncompleteTransfer("cut"), 502),
            (ZeroDivisionError("Generated^Patient"), 500),
        ],
    )
    def test_error_before_the_answer_is_a_status(self, memory: Memory, error: Exception, status: int) -> None:
        with HttpFace(self.broken(memory, error, 0)) as face:
            answer = requests.get(f"{face.url}/dicom-web/studies/{STUDY}")
        assert answer.status_code == status
        assert (answer.headers.get("Retry-After") is not None) == (status == 503)
        assert "10.1.2.3" not in answer.text
        assert "Generated" not in answer.text

    def test_error_in_the_middle_never_looks_whole(self, memory: Memory) -> None:
        memory.put(instance(9, study=STUDY, size=1024))
        with HttpFace(self.broken(memory, IncompleteTransfer("cut"), 4)) as face:
            broken = face.endpoint
            broken.put(instance(10, study=STUDY, size=8))
            with pytest.raises((requests.exceptions.ChunkedEncodingError, requests.exceptions.ConnectionError)):
                requests.get(f"{face.url}/dicom-web/studies/{STUDY}")

    def test_verb_that_the_endpoint_has_not_is_501(self) -> None:
        @define(eq=False)
        class Bare(Endpoint):
            """Can nothing."""

        with HttpFace(Bare()) as face:
            assert requests.get(f"{face.url}/dicom-web/studies/1.2").status_code == 501
            assert requests.post(f"{face.url}/dicom-web/studies", **packed(instance())).status_code == 501
            assert requests.get(f"{face.url}/healthz").status_code == 200


class TestAccess:
    """Only who may comes in."""

    def test_each_way_in_works_and_others_do_not(self, memory: Memory) -> None:
        auth = [BasicAuth("ann", "pass:wörd"), BearerAuth("tok")]
        with HttpFace(memory, auth=auth) as face:
            url = f"{face.url}/dicom-web/studies"
            assert requests.get(url).status_code == 401
            assert "Basic" in requests.get(url).headers["WWW-Authenticate"]
            assert requests.get(url, auth=("ann", "pass:wörd".encode())).status_code == 200
            assert requests.get(url, headers={"Authorization": "Bearer tok"}).status_code == 200
            for bad in ("Bearer tokk", "Basic !!!", "Basic", "Bearer", "Basic YW5uOg==", "Digest x"):
                assert requests.get(url, headers={"Authorization": bad}).status_code == 401
            assert requests.get(f"{face.url}/healthz").status_code == 200

    def test_other_names_are_refused_without_authentication(self, face: HttpFace) -> None:
        assert requests.get(f"{face.url}/healthz", headers={"Host": "evil.example"}).status_code == 421

    def test_address_beyond_this_machine_needs_authentication(self, memory: Memory) -> None:
        with pytest.raises(ConfigError, match="--insecure"):
            HttpFace(memory, "0.0.0.0").start()
        with HttpFace(memory, "0.0.0.0", insecure=True) as face:
            assert requests.get(f"http://127.0.0.1:{face.port}/healthz").status_code == 200

    def test_tls_serves_with_the_given_certificate(self, memory: Memory, tmp_path: Path) -> None:
        cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "2"]
        command += ["-addext", "subjectAltName=IP:127.0.0.1", "-out", str(cert), "-keyout", str(key)]
        subprocess.run(command, check=True, capture_output=True)
        with HttpFace(memory, tls_cert=cert, tls_key=key) as face:
            (row,) = requests.get(f"{face.url}/dicom-web/studies", verify=str(cert)).json()
            assert row["00081190"]["Value"][0].startswith("https://")
            old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            old.load_verify_locations(cert)
            old.set_ciphers("DEFAULT:@SECLEVEL=0")
            old.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                old.maximum_version = ssl.TLSVersion.TLSv1_1
            with socket.create_connection(("127.0.0.1", face.port), 10) as plain, pytest.raises(ssl.SSLError):
                old.wrap_socket(plain, server_hostname="127.0.0.1")
        with pytest.raises(ConfigError):
            HttpFace(memory, tls_cert=key, tls_key=cert).start()


class TestHostile:
    """No request makes the server fail, hang or forget others."""

    def test_random_requests_never_make_a_500(self, face: HttpFace) -> None:
        chance = random.Random(7)
        words = [
            STUDY,
            SERIES,
            ONE,
            "1",
            "..",
            "%00",
            "%2e%2e",
            "'",
            "*",
            "studies",
            "series",
            "instances",
            "frames",
            "metadata",
        ]
        words += [
            "rendered",
            "bulkdata",
            "7FE00010",
            "0",
            "99999999999",
            "\u00e4",
            "PatientName",
            "all",
            "a" * 300,
            "%ff",
            "1,2,,",
            "\\",
        ]
        keys = [
            "limit",
            "offset",
            "includefield",
            "PatientName",
            "StudyDate",
            "QueryLevel",
            "IncludeFields",
            "objectUID",
            "requestType",
        ]
        keys += [
            "contentType",
            "window",
            "viewport",
            "quality",
            "accept",
            "minStudyDate",
            "frameNumber",
            "7FE00010",
            "StudyTime",
        ]
        roots = [
            "/dicom-web/studies",
            "/wado",
            "/mint/studies",
            "/dicom-web/series",
            "/rad69",
            f"/dicom-web/studies/{STUDY}",
            AT,
        ]
        kinds = ["*/*", "image/png", DICOM, "a", ";;", 'x/y; q="', "application/dicom+json", "image/*;q=7", "\x7f", ""]
        session = requests.Session()
        for _ in range(600):
            path = chance.choice(roots) + "".join(f"/{chance.choice(words)}" for _ in range(chance.randint(0, 3)))
            query = "&".join(f"{chance.choice(keys)}={chance.choice(words)}" for _ in range(chance.randint(0, 4)))
            method = chance.choice(["GET", "GET", "GET", "POST", "DELETE", "PUT", "OPTIONS"])
            headers = {
                "Accept": chance.choice(kinds),
                "Content-Type": chance.choice([*kinds[2:], f"{DICOM}; boundary=x"]),
            }
            answer = session.request(
                method, f"{face.url}{path}?{query}", headers=headers, data=chance.randbytes(chance.randint(0, 50))
            )
            assert answer.status_code < 500, (method, path, query, headers)

    @pytest.mark.parametrize(
        "raw",
        [
            b"\x00\xff\r\n\r\n",
            b"GET / HTTP/9.9\r\n\r\n",
            b"GET /dicom-web/studies HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
            b"POST /rad69 HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
            b"POST /rad69 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            b"GET /dicom-web/studies HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\n\r\n",
        ],
    )
    def test_damaged_heads_get_400_or_nothing(self, face: HttpFace, raw: bytes) -> None:
        with socket.create_connection(("127.0.0.1", face.port), timeout=10) as wire:
            try:
                wire.sendall(raw)
                answer = wire.recv(4096)
            except ConnectionError:
                answer = b""
        assert answer == b"" or answer.split()[1][:1] == b"4"
        assert requests.get(f"{face.url}/healthz").status_code == 200

    def test_head_that_does_not_come_is_cut(self, memory: Memory) -> None:
        with (
            HttpFace(memory, limits=Limits(head_time=0.2)) as face,
            socket.create_connection(("127.0.0.1", face.port)) as wire,
        ):
            wire.settimeout(10)
            wire.sendall(b"GET / HT")
            with pytest.raises(ConnectionError):
                wire.recv(10)

    def test_body_that_does_not_go_on_is_408(self, memory: Memory) -> None:
        with HttpFace(memory, limits=Limits(idle=0.2)) as face:
            wire = http.client.HTTPConnection("127.0.0.1", face.port, timeout=10)
            wire.putrequest("POST", "/rad69")
            wire.putheader("Content-Type", "application/soap+xml")
            wire.putheader("Content-Length", "100")
            wire.endheaders(b"<a>")
            assert wire.getresponse().status == 408
            wire.close()

    def test_client_that_takes_nothing_is_dropped(self, memory: Memory) -> None:
        memory.put(instance(1, study="1.2.5", size=6000))
        with HttpFace(memory, limits=Limits(idle=0.3)) as face, socket.socket() as wire:
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            wire.settimeout(20)
            wire.connect(("127.0.0.1", face.port))
            wire.sendall(b"GET /dicom-web/studies/1.2.5 HTTP/1.1\r\nHost: localhost\r\n\r\n")
            import select

            poller = select.poll()
            poller.register(wire, select.POLLHUP | select.POLLERR)
            assert poller.poll(15_000)

    def test_too_many_requests_at_a_time_are_503(self, memory: Memory) -> None:
        with HttpFace(memory, limits=Limits(requests=1)) as face:
            wire = http.client.HTTPConnection("127.0.0.1", face.port, timeout=10)
            wire.putrequest("POST", "/rad69")
            wire.putheader("Content-Type", "application/soap+xml")
            wire.putheader("Content-Length", "5")
            wire.endheaders(b"<a")
            statuses = {requests.get(f"{face.url}/healthz").status_code for _ in range(50)}
            assert 503 in statuses
            wire.send(b"/> ")
            assert wire.getresponse().status == 400
            wire.close()
            assert requests.get(f"{face.url}/healthz").status_code == 200


def test_openapi_describes_every_path(face: HttpFace) -> None:
    described = requests.get(f"{face.url}/openapi.json").json()
    served = {route.path.replace("{path:path}", "{path}") for route in app_routes(face)}
    assert served == set(described["paths"])
    assert json.dumps(described)


def app_routes(face: HttpFace) -> list[Any]:
    from diana.server import make_app

    return list(make_app(face.endpoint).routes)


def test_queries_reach_the_endpoint_at_the_level_of_the_path(face: HttpFace, memory: Memory) -> None:
    assert len(list(memory.iter_find(Query({}, DicomLevel.INSTANCES)))) == len(
        requests.get(f"{face.url}/dicom-web/studies/{STUDY}/series/{SERIES}/instances").json()
    )
