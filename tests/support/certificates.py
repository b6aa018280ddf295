"""A certificate authority of a test's own, and what it signs."""

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

HERE = ipaddress.ip_address("127.0.0.1")


@dataclass(frozen=True)
class Signed:
    """A certificate and its key, both PEM, and where they lie."""

    certificate: bytes
    key: bytes
    certificate_path: Path
    key_path: Path


class Authority:
    """Signs certificates into a folder."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _named(name)
        certificate = _builder(self._name, self._name, self._key, authority=True).sign(self._key, hashes.SHA256())
        self.pem = certificate.public_bytes(serialization.Encoding.PEM)
        self.path = folder / f"{name}.pem"
        self.path.write_bytes(self.pem)

    def sign(self, name: str, *, dns: str = "", file: str = "") -> Signed:
        """A certificate for `name` (common name) at 127.0.0.1, or for a DNS name; written as `file`.pem and .key."""
        key = ec.generate_private_key(ec.SECP256R1())
        alternative = x509.DNSName(dns) if dns else x509.IPAddress(HERE)
        certificate = (
            _builder(_named(name), self._name, key, authority=False)
            .add_extension(x509.SubjectAlternativeName([alternative]), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        secret = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        signed = Signed(
            certificate.public_bytes(serialization.Encoding.PEM),
            secret,
            self._folder / f"{file or name}.pem",
            self._folder / f"{file or name}.key",
        )
        signed.certificate_path.write_bytes(signed.certificate)
        signed.key_path.write_bytes(signed.key)
        return signed


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, *, authority: bool
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
    )
