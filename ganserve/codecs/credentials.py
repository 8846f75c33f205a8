"""Content Credentials: a picture's file carries a manifest, signed with the operator's key, that says what made the picture (C2PA).

Unlike the label of :mod:`ganserve.codecs.provenance`, which anyone may write, a manifest is bound to the file's bytes: readers of C2PA
tell whether either was changed since, and whose certificate signed. A signature is random, so equal pictures are not equal files.
"""

import io
import threading
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ganserve import __version__
from ganserve.codecs import Origin
from ganserve.codecs.png import encode_png
from ganserve.codecs.provenance import LARGEST, SOURCE_TYPE
from ganserve.errors import GanserveError

TYPES = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}
"""The formats whose files have room for a manifest, with their media types."""

CURVES = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}
"""Elliptic curves, as SEC 2 calls them, and C2PA's algorithm for a key on each."""

SLACK = 1024
"""By so many bytes at most the manifests of an origin differ, whatever the format."""

_PICTURE = encode_png(np.zeros((1, 1, 3), np.uint8))


class Credentials:
    """Signs files with the PEM file ``key``, of PKCS #8; the PEM file ``certificates`` says whose it is: its own first, then its issuers'.

    :class:`GanserveError` where one cannot be read, they do not belong together, or C2PA allows no such certificate.
    """

    def __init__(self, certificates: Path, key: Path) -> None:
        try:
            import c2pa
        except ImportError as error:
            raise GanserveError(
                f"signing pictures needs the package c2pa-python: pip install 'ganserve[c2pa]' ({error})"
            ) from error
        self._c2pa = c2pa
        self._own = threading.local()
        try:
            chain, secret = certificates.read_bytes(), key.read_bytes()
            self._info = c2pa.C2paSignerInfo(_algorithm(secret), chain, secret, None)
            self._sign(_PICTURE, "png", Origin("trial", 1), checked=True)
        except (OSError, ValueError, c2pa.C2paError) as error:
            raise GanserveError(
                f"pictures cannot be signed with the certificates {certificates} and the key {key}: {error}\nC2PA asks for the key's "
                "certificate, of an authority and with an extended key usage such as emailProtection, then those of its issuers"
            ) from error
        self.most_bytes = lru_cache(maxsize=256)(self._most_bytes)

    def signed(self, data: bytes, name: str, origin: Origin) -> bytes:
        """``data``, a file of the format ``name``, with a manifest that tells ``origin``."""
        return self._sign(data, name, origin)

    def _most_bytes(self, origin: Origin) -> int:
        """An upper bound of what a manifest adds, whatever pictures of the model were drawn from."""
        longest = Origin(origin.model, origin.version, (LARGEST, LARGEST))
        return len(self._sign(_PICTURE, "png", longest)) - len(_PICTURE) + SLACK

    def _sign(self, data: bytes, name: str, origin: Origin, *, checked: bool = False) -> bytes:
        signer, context = self._tools(checked)
        made = io.BytesIO()
        with self._c2pa.Builder(_manifest(origin), context=context) as builder:
            builder.sign(signer, TYPES[name], io.BytesIO(data), made)
        return made.getvalue()

    def _tools(self, checked: bool) -> tuple[Any, Any]:
        """A signer and its settings, made once a thread: the library does not say that threads may share them."""
        tools: dict[bool, tuple[Any, Any]] | None = getattr(self._own, "tools", None)
        if tools is None:
            tools = self._own.tools = {}
        if checked not in tools:
            settings = {"builder": {"thumbnail": {"enabled": False}}, "verify": {"verify_after_sign": checked}}
            signer = self._c2pa.Signer.from_info(self._info)
            tools[checked] = signer, self._c2pa.Context(self._c2pa.Settings.from_dict(settings))
        return tools[checked]


def _manifest(origin: Origin) -> dict[str, Any]:
    """What a manifest says: that ``origin``'s model created the picture, and from which seed."""
    action: dict[str, Any] = {
        "action": "c2pa.created",
        "digitalSourceType": SOURCE_TYPE,
        "softwareAgent": {"name": origin.model, "version": str(origin.version)},
    }
    if origin.drawn is not None:
        seed, index = origin.drawn
        # JSON's numbers end at 2^53 for many readers.
        action["parameters"] = {"ganserve.seed": str(seed), "ganserve.index": str(index)}
    return {
        "claim_generator_info": [{"name": "ganserve", "version": __version__}],
        "assertions": [{"label": "c2pa.actions", "data": {"actions": [action]}}],
    }


def _algorithm(secret: bytes) -> bytes:
    """C2PA's name for how the key in the PEM file ``secret`` signs; :class:`ValueError` for one that is of no kind it knows."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    key = serialization.load_pem_private_key(secret, None)
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in CURVES:
        return CURVES[key.curve.name].encode()
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return b"ed25519"
    if isinstance(key, rsa.RSAPrivateKey):
        return b"ps256"
    raise ValueError(
        f"a key of the kind {type(key).__name__}; expected one on the curve P-256, P-384 or P-521, Ed25519 or RSA"
    )
