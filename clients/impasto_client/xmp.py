"""XMP packets: how a picture came to be (IPTC's DigitalSourceType), and impasto's JSON where no chunk can hold it."""

from __future__ import annotations

from xml.etree import ElementTree
from xml.sax.saxutils import escape

from impasto_client.errors import MarkError

# How a picture came to be, by IPTC's words: painted by a model, or made by one out of a picture that was given.
PAINTED, REPAINTED = "trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia"
SOURCES = "http://cv.iptc.org/newscodes/digitalsourcetype/"

_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_IPTC = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
_XMP = "http://ns.adobe.com/xap/1.0/"
_OURS = "urn:impasto:marks#"
_PACKET = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
    f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{_RDF}">'
    f'<rdf:Description rdf:about="" xmlns:xmp="{_XMP}" xmlns:Iptc4xmpExt="{_IPTC}" xmlns:impasto="{_OURS}">'
    "<xmp:CreatorTool>{tool}</xmp:CreatorTool>"
    f"<Iptc4xmpExt:DigitalSourceType>{SOURCES}{{source}}</Iptc4xmpExt:DigitalSourceType>"
    "{own}</rdf:Description></rdf:RDF></x:xmpmeta>\n"
    '<?xpacket end="r"?>'
)


def packet(tool: str, source: str, own: str | None) -> str:
    """A packet that says which tool made the picture, in which way (PAINTED or REPAINTED), and holds `own`."""
    held = "" if own is None else f"<impasto:mark>{escape(own)}</impasto:mark>"
    return _PACKET.format(tool=escape(tool), source=source, own=held)


def source_of(text: str) -> str | None:
    """The last word of the DigitalSourceType; None without one. Raises MarkError."""
    said = _property(text, f"{{{_IPTC}}}DigitalSourceType")
    return None if said is None else said.rpartition("/")[2]


def own_of(text: str) -> str | None:
    """impasto's JSON; None without it. Raises MarkError."""
    return _property(text, f"{{{_OURS}}}mark")


def _property(text: str, name: str) -> str | None:
    """A property's text, which may stand in an element or in an attribute."""
    for element in _parsed(text).iter():
        if element.tag == name:
            return element.text or element.get(f"{{{_RDF}}}resource") or ""
        if name in element.attrib:
            return element.attrib[name]
    return None


def _parsed(text: str) -> ElementTree.Element:
    """The packet as a tree. Entities could grow without bound, so a packet that may declare some is refused."""
    if "<!DOCTYPE" in text:
        raise MarkError("the XMP packet has a document type, which no program needs; save the picture again")
    try:
        return ElementTree.fromstring(text.strip("\0 \n\ufeff"))
    except (ElementTree.ParseError, ValueError, RecursionError) as error:
        raise MarkError(f"the XMP packet is not well-formed ({error}); the file is damaged") from None
