"""The CA and the serving certificate of a SLEDServer with tls mode SelfSigned. Pure: bytes and a
clock in, bytes out.

Elliptic curve P-256, which every gRPC implementation takes and which a Raspberry Pi verifies in a
millisecond. A serving certificate is renewed after two thirds of its life, or when its names
change.
"""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CA_DAYS = 3650
_SKEW = datetime.timedelta(minutes=5)


class UnreadableCertificate(ValueError):
    """Stored bytes are no key or certificate; the message says which."""


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A private key and its certificate, both PEM. The key never shows in a repr."""

    key: bytes
    certificate: bytes

    def __repr__(self) -> str:
        return "KeyPair(…)"


def make_ca(name: str, now: datetime.datetime) -> KeyPair:
    """A certificate authority for one server, valid for ten years."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{name} SLED CA"[:64])])
    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        crl_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + datetime.timedelta(days=CA_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return KeyPair(_pem(key), certificate.public_bytes(serialization.Encoding.PEM))


def make_serving(ca: KeyPair, names: Sequence[str], days: int, now: datetime.datetime) -> KeyPair:
    """A serving certificate for `names` (DNS names and IP addresses), signed by `ca`.

    Raises:
        UnreadableCertificate: `ca` is damaged.
    """
    try:
        ca_key = serialization.load_pem_private_key(ca.key, None)
        ca_certificate = x509.load_pem_x509_certificate(ca.certificate)
    except ValueError as error:
        raise UnreadableCertificate(f"the stored CA cannot be read: {error}") from error
    if not isinstance(ca_key, ec.EllipticCurvePrivateKey):
        raise UnreadableCertificate("the stored CA key is no elliptic curve key")
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])])
    signer = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(ca_certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([_name(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(signer, critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    return KeyPair(_pem(key), certificate.public_bytes(serialization.Encoding.PEM))


def renew_at(certificate: bytes) -> datetime.datetime:
    """When two thirds of a certificate's life are over.

    Raises:
        UnreadableCertificate: it is damaged.
    """
    loaded = _load(certificate)
    start, end = loaded.not_valid_before_utc, loaded.not_valid_after_utc
    return start + (end - start) * 2 / 3


def names_of(certificate: bytes) -> set[str]:
    """DNS names and IP addresses in a certificate.

    Raises:
        UnreadableCertificate: it is damaged.
    """
    try:
        found = _load(certificate).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return set()
    return {str(name.value) for name in found.value}


def fits(serving: bytes, ca: bytes, names: Sequence[str], now: datetime.datetime) -> bool:
    """Whether a stored serving certificate can stay: readable, right names, our CA, not too old."""
    try:
        fresh = renew_at(serving) > now
        _load(serving).verify_directly_issued_by(_load(ca))
        return fresh and names_of(serving) == set(names)
    except (UnreadableCertificate, InvalidSignature, ValueError, TypeError):
        return False


def _load(certificate: bytes) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(certificate)
    except ValueError as error:
        raise UnreadableCertificate(f"a stored certificate cannot be read: {error}") from error


def _name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
