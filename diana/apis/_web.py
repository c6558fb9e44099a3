"""What the endpoints over the web protocols have in common: the address, who is asking, and UIDs as ids."""

from __future__ import annotations

from typing import Any, Final  # Any: sessions and auth objects are the caller's
from urllib.parse import unquote, urlsplit, urlunsplit

from attrs import define, field

from diana.exceptions import InvalidItem, ItemNotFound
from diana.utils.dicom import DicomLevel, Ref
from diana.utils.dicom.ref import is_uid
from diana.utils.endpoint import Endpoint
from diana.utils.endpoint.serializable import SECRET
from diana.utils.gateways.http import HttpClient
from diana.utils.gateways.web_auth import VitreaLogin, make_client

CHECK_SECONDS: Final = 5.0
SPILL: Final = 2 << 20

Uids = tuple[str, str, str]


def _as_pair(value: Any) -> tuple[float, float]:
    connect, silence = (value, value) if isinstance(value, int | float) else value
    return float(connect), float(silence)


@define(eq=False)
class WebEndpoint(Endpoint):
    """
    Hold the address of a web service and the credentials for it.

    ``session`` is a ``requests.Session`` that is logged in already; without one the project's own client is used, with
    ``user`` and ``password`` (basic), ``token`` (bearer: a text, or a function that is called again after a 401),
    ``login`` (the address of a Vitrea login, with user, password and ``realm``), ``cert`` (a client certificate) or
    ``auth`` (``Credentials``, or an ``AuthBase`` of requests). ``timeout`` is (connect, silence) in seconds. ``folder``
    is where large objects are kept until their blobs are closed, above ``spill`` bytes. An id is that of ``put``: the
    UIDs down to the item, joined by slashes; of a study its UID.
    """

    session: Any = field(default=None, repr=False, metadata=SECRET)
    url: str = ""
    user: str | None = field(default=None, kw_only=True, repr=False)
    password: str | None = field(default=None, kw_only=True, repr=False, metadata=SECRET)
    token: Any = field(default=None, kw_only=True, repr=False, metadata=SECRET)
    auth: Any = field(default=None, kw_only=True, repr=False, metadata=SECRET)
    login: str | None = field(default=None, kw_only=True)
    realm: str = field(default="DefaultSystemRealm", kw_only=True)
    timeout: tuple[float, float] = field(default=(5.0, 120.0), kw_only=True, converter=_as_pair)
    verify: bool | str = field(default=True, kw_only=True)
    cert: str | tuple[str, str] | None = field(default=None, kw_only=True, repr=False)
    folder: str | None = field(default=None, kw_only=True)
    spill: int = field(default=SPILL, kw_only=True)

    def __attrs_post_init__(self) -> None:
        if isinstance(self.session, str) and not self.url:
            self.session, self.url = None, self.session
        parts = urlsplit(self.url)
        if parts.username is not None:
            self.user, self.password = unquote(parts.username), unquote(parts.password or "")
            self.url = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
        self._connect()

    def _connect(self) -> None:
        """Make the gateways."""

    def client(self, url: str = "", **options: Any) -> HttpClient:
        """Return a client for the service, or for another address of it, with the credentials."""
        who: dict[str, Any] = {"user": self.user, "password": self.password, "auth": self.auth, "token": self.token}
        if self.login:
            login = VitreaLogin(
                self.login,
                self.user or "",
                self.password or "",
                self.realm,
                verify=self.verify,
                timeout=self.timeout,
            )
            who = {"auth": login}
        return make_client(
            url or self.url,
            session=self.session,
            name=self.name,
            timeout=self.timeout,
            verify=self.verify,
            cert=self.cert,
            spill=self.spill,
            folder=self.folder,
            **who,
            **options,
        )

    def uids(self, ref: Ref) -> Uids:
        """
        Return study, series and instance UID of a ref, empty below its level.

        Raises ItemNotFound for what cannot be a UID, InvalidItem when one on the way is not known.
        """
        if ref.level == DicomLevel.PATIENTS:
            raise InvalidItem(f"{self.name}: DICOMweb has no patient level; name a study")
        depth = int(ref.level) - 1
        known = (ref.study, ref.series, ref.instance)[:depth]
        if not any(known) and ref.id:
            known = tuple(ref.id.split("/"))
            if len(known) != depth or not all(map(is_uid, known)):
                raise ItemNotFound(f"{self.name}: what is asked for is no id of this endpoint")
        if not all(known):
            raise InvalidItem(f"{self.name}: the address of a {ref.level.singular.lower()} lacks a UID above it")
        if not all(map(is_uid, known)):
            raise ItemNotFound(f"{self.name}: what is asked for is not named by UIDs")
        study, series, instance = (*known, "", "", "")[:3]
        return study, series, instance


def keys_of(uids: Uids) -> dict[str, str]:
    """Return UIDs by keyword, without the empty ones."""
    words = (level.uid_keyword for level in (DicomLevel.STUDIES, DicomLevel.SERIES, DicomLevel.INSTANCES))
    return {keyword: uid for keyword, uid in zip(words, uids, strict=True) if uid}
