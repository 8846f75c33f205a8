"""What a picture's file says of where it came from: an XMP packet with IPTC's digital source type, the model, and the seed.

XMP is ISO 16684-1; the properties ``DigitalSourceType``, ``AISystemUsed`` and ``AISystemVersionUsed`` are of the IPTC Photo Metadata
Standard. PNG, JPEG and WebP files hold the same packet, each in its own kind of chunk.
"""

from functools import lru_cache
from xml.sax.saxutils import quoteattr

from ganserve import __version__
from ganserve.codecs import Origin

SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
"""IPTC's term for what a trained model made."""

NAMESPACE = "urn:ganserve:xmp:1.0/"
"""The namespace of ``Seed`` and ``Index``, for which no standard has a property."""

_SEED = ' ganserve:Seed="%d" ganserve:Index="%d"'
LARGEST = 2**64 - 1


def packet_of(origin: Origin) -> bytes:
    """The XMP packet that tells ``origin``: the same bytes for the same origin."""
    head, tail = _around(origin.model, origin.version)
    return head + tail if origin.drawn is None else head + (_SEED % origin.drawn).encode() + tail


def most_packet_bytes(origin: Origin) -> int:
    """An upper bound of the packet's size, whatever pictures of the model were drawn from."""
    return len(packet_of(Origin(origin.model, origin.version, (LARGEST, LARGEST))))


# A packet is made for every picture, its parts once a model.
@lru_cache(maxsize=256)
def _around(model: str, version: int) -> tuple[bytes, bytes]:
    head = (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"'
        f' xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:ganserve={quoteattr(NAMESPACE)}'
        f" Iptc4xmpExt:DigitalSourceType={quoteattr(SOURCE_TYPE)} Iptc4xmpExt:AISystemUsed={quoteattr(model)}"
        f' Iptc4xmpExt:AISystemVersionUsed="{version}" xmp:CreatorTool={quoteattr(f"ganserve {__version__}")}'
    )
    return head.encode(), b'/></rdf:RDF></x:xmpmeta><?xpacket end="r"?>'
