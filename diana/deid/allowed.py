"""What strict mode lets pass although Table E.1-1 does not list it: technical text of a plain shape."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

_ALLOWED: Final = """
00080070 00080100 00080101 00080102 00080103 00080104 0008010E 00080112 00080114 00080115 00080116 00080119 00080120
00080122 00080222 00080302 0008030C 0008030D 00081090 00082120 00082127 00082132 00100213 00102201 00102292 00160008
0016000C 00160020 00180024 00180030 00180031 00180034 00180085 00181006 00181016 00181017 00181018 00181019 0018101A
0018101B 00181020 00181022 00181023 00181040 00181061 00181064 00181070 00181085 00181160 00181161 001811A4 001811B0
001811B1 00181180 00181210 00181250 00181251 00181260 00181261 00181401 00181801 00182002 00182006 00185000 00185010
00185020 00185021 00187006 00187008 0018702A 0018702B 00187040 00187041 00187062 00189005 00189041 00189046 00189047
00189050 00189175 00189186 00189252 0018925B 0018925E 00189320 00189433 00189524 00189525 00189526 00189528 00189531
00189941 00200070 0020103F 00201040 00203404 00209056 00209213 00209238 00209421 00221029 00221093 00221095 00221097
00221159 00221273 00221454 00221616 00240202 00240306 00240307 00240308 0028005F 00280062 00280063 00280400 00280401
00280403 00280700 00280A04 00281054 00281055 00283003 00283004 00401003 00401009 00409210 00420012 00420014 00460012
00480106 00480107 00540018 00541101 00541103 00541104 00541105 00603010 00620005 00620009 0066000B 00660031
00660036 00660106 006A000E 00700227 00700229 00700310 00720054 00720056 00741056 00800009 20100010 30020052 300A0043
300A00D4 300A00DC 300A00E1 300A00E5 300A00EF 300A00F5 300A00F9 300A0108 300A0183 300A0184 300A0194 300A0198 300A01A4
300A01A8 300A01B8 300A021B 300A0226 300A0238 300A0242 300A0263 300A0266 300A0273 300A0291 300A0294 300A0298 300A02B3
300A02B4 300A030F 300A0318 300A0336 300A0346 300A034C 300A0352 300A0354 300A0355 300A0362 300A0372 300A0390 300A0421
30100005 3010001A 3010001D
"""
CODE_TAGS: Final = frozenset((0x00080100, 0x00080101, 0x00080102, 0x00080103, 0x00080104, 0x00080119, 0x00080120))
SCHEME: Final = 0x00080102
URN: Final = 0x00080120

# designators of PS3.16 chapter 8 that name public vocabularies
_SCHEMES: Final = """
ACR AIMS ASTM-sigpurpose C4 CD10 CPT CT DC DCM DCMUID DOCLE FMA HHC HI HL7NullFlavor HPC HGNC I10 I10P I9 I9C I9P ICD10
ICD11 ICDO3 ICDTL IBSI IHE IHERADTF IEEE_11073 ISO639_1 ISO639_2 ISO3166_1 ITIS_TSN LB LN LOINC MA MAYOASRG MDC MDNS
MGI MSH NCDR NCIt NDC NEU NICIP NYUMCCG PATHLEX POS PUBCHEM_CID RADELEMENT RADLEX RCPA RECIST RXNORM SCPECG SCT SNM3
SRT SNOMED STARBASE TNM UBERON UCUM UMLS UNS UPC BARI BI
"""
_PLAIN: Final = re.compile(rb"[ -\x5b\x5c\x5d\x5f-~\t\r\n\0]*\Z")  # ASCII without a caret
_SUSPECT: Final = re.compile(
    rb"(?s)@|\A(?!\d{5}[ \0]*\Z).*\d{5}"  # mail; numbers of five digits with anything beside them, and longer ones
    rb"|(?:19|20)\d\d[./-]\d\d?[./-]\d|\d[./-](?:19|20)\d\d(?!\d)"  # dates with a year of four digits
    rb"|(?<![\d.])(?:0?[1-9]|[12]\d|3[01])([./-])(?:0?[1-9]|1[0-2])\1\d\d(?![\d.])"  # and of two
    rb"|(?i:(?<!\d)\d\d?[-. /]?(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*[-. /]*\d\d)"  # 12-Mar-58
    rb"|[A-Za-z]{2,}, (?!Inc|Ltd|Corp|LLC|GmbH|Co\b|AG|SA|BV|KG)[A-Z][a-z]"  # Last, First
)
_NAMED_NUMBER: Final = re.compile(rb"[0-9eE+\-. ,\\\0naNifINFA]*\Z")
_TERM: Final = re.compile(rb"[ -\x5d_-~\0]*\Z")
_LONG_NUMBER: Final = re.compile(rb"\d{7}")
LONGEST_TERM: Final = 32


@lru_cache(maxsize=1)
def allowed_tags() -> frozenset[int]:
    """Return the attributes whose text may pass."""
    return frozenset(int(tag, 16) for tag in _ALLOWED.split())


@lru_cache(maxsize=1)
def public_schemes() -> frozenset[bytes]:
    """Return the coding scheme designators that name public vocabularies, in upper case."""
    return frozenset(one.upper().encode() for one in _SCHEMES.split())


def is_technical(value: bytes) -> bool:
    """Tell whether text looks like a device wrote it: ASCII, no caret, no mail, no date, no number of five digits."""
    return bool(_PLAIN.match(value)) and not _SUSPECT.search(value)


def is_number(value: bytes) -> bool:
    """Tell whether a DS or IS value holds only numbers."""
    return bool(_NAMED_NUMBER.match(value))


def is_term(value: bytes) -> bool:
    """Tell whether a CS value holds only terms: ASCII, no mail, no long number, at most 32 characters each."""
    if not _TERM.match(value) or b"@" in value or _LONG_NUMBER.search(value):
        return False
    return len(value) <= LONGEST_TERM or max(map(len, value.split(b"\\"))) <= LONGEST_TERM
