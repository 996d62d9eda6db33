"""Who signs content credentials: the operator's certificate, or one that the root made for itself."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import pyarrow.fs as pafs
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from factory.errors import OutputError
from factory.files import filesystem

CERTIFICATE: Final = "IDENTITY_FACTORY_CERTIFICATE"  # environment variable: a PEM file, as `Credentials.load` reads it
SELF_SIGNED: Final = "identity-factory, self-signed: nobody vouches for it"
_FILE: Final = "credentials/c2pa.pem"
_VALID: Final = timedelta(days=3650)


@dataclass(frozen=True, slots=True)
class Credentials:
    """A private key (ES256) and its certificates, the signer's own first."""

    chain: bytes  # PEM
    key: bytes = field(repr=False)  # PEM, PKCS 8

    @property
    def anchor(self) -> bytes:
        """The last certificate, PEM: whoever trusts it trusts what is signed with these."""
        return x509.load_pem_x509_certificates(self.chain)[-1].public_bytes(serialization.Encoding.PEM)

    @property
    def name(self) -> str:
        """What the signer's certificate calls itself."""
        names = x509.load_pem_x509_certificates(self.chain)[0].subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        return str(names[0].value) if names else ""

    @classmethod
    def of(cls, root: str) -> Credentials:
        """The operator's where the environment names a file (CERTIFICATE), else the root's own, made if need be.
        Raises as `load`."""
        if (known := cls.known(root)) is not None:
            return known
        _write(f"{root}/{_FILE}", make_self_signed().pem())
        return cls.load(f"{root}/{_FILE}")

    @classmethod
    def known(cls, root: str) -> Credentials | None:
        """The same, but never made: None if nothing was signed by this root yet. Raises as `load`."""
        if own := os.environ.get(CERTIFICATE):
            return cls.load(own)
        files, path = filesystem(f"{root}/{_FILE}")
        try:
            is_there = files.get_file_info(path).type != pafs.FileType.NotFound
        except OSError as error:
            raise _unread(f"{root}/{_FILE}", error) from None
        return cls.load(f"{root}/{_FILE}") if is_there else None

    @classmethod
    def load(cls, uri: str) -> Credentials:
        """From a PEM file with an EC P-256 key and its certificates, the signer's own first. Raises ValueError, and
        OutputError, with the remedy, if it cannot be read."""
        files, path = filesystem(uri)
        try:
            with files.open_input_stream(path) as stream:
                pem = stream.read()
        except OSError as error:
            raise _unread(uri, error) from None
        try:
            key = serialization.load_pem_private_key(pem[pem.index(b"-----BEGIN PRIVATE KEY") :], password=None)
            chain = x509.load_pem_x509_certificates(pem)
        except ValueError as error:
            raise ValueError(f"{uri} must hold certificates and a private key (PKCS 8) in PEM: {error}") from None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp256r1":
            raise ValueError(f"{uri}: the key must be an EC key on P-256, which signs as ES256")
        if chain[0].public_key() != key.public_key():
            raise ValueError(f"{uri}: the first certificate is not the key's")
        return cls(b"".join(one.public_bytes(serialization.Encoding.PEM) for one in chain), _pem(key))

    def pem(self) -> bytes:
        """As `load` reads it."""
        return self.chain + self.key


def _unread(uri: str, error: OSError) -> OutputError:
    why = {errno.EACCES: "this user may not read it", errno.ENOENT: "it is not there"}.get(error.errno or 0, str(error))
    return OutputError(
        f"{uri}, the certificate by which files are signed: {why[:300]}; let whoever runs this read it (it is its "
        f"maker's alone, mode 0600), or name one of your own: {CERTIFICATE}=FILE.pem"
    )


def make_self_signed() -> Credentials:
    """A certificate that an issuer of its own signs, whose key is thrown away; C2PA allows no signer to sign itself."""
    issuer, signer = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    certificates = [_certify(signer.public_key(), issuer, ca=False), _certify(issuer.public_key(), issuer, ca=True)]
    chain = b"".join(one.public_bytes(serialization.Encoding.PEM) for one in certificates)
    return Credentials(chain, _pem(signer))


def _certify(public: ec.EllipticCurvePublicKey, issuer: ec.EllipticCurvePrivateKey, *, ca: bool) -> x509.Certificate:
    def name(text: str) -> x509.Name:
        organization = x509.NameAttribute(NameOID.ORGANIZATION_NAME, "self-signed")  # what C2PA shows as issuer
        return x509.Name([organization, x509.NameAttribute(NameOID.COMMON_NAME, text)])

    allowed = dict.fromkeys(("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"), False)
    allowed |= dict.fromkeys(("crl_sign", "encipher_only", "decipher_only"), False)
    began = datetime.now(UTC) - timedelta(hours=1)  # clocks differ
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(f"{SELF_SIGNED} (issuer)" if ca else SELF_SIGNED))
        .issuer_name(name(f"{SELF_SIGNED} (issuer)"))
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(began)
        .not_valid_after(began + _VALID)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(digital_signature=not ca, key_cert_sign=ca, **allowed), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key()), critical=False)
    )
    if not ca:  # one of those that C2PA asks of a signer
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)
    return builder.sign(issuer, hashes.SHA256())


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write(uri: str, pem: bytes) -> None:
    """For its owner's eyes; if another process was first, its file stays."""
    files, path = filesystem(uri)
    if not isinstance(files, pafs.LocalFileSystem):
        with files.open_output_stream(path) as stream:  # an object appears as a whole
            stream.write(pem)
        return
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    ours = file.with_name(f"{file.name}.{os.getpid()}")
    try:
        with os.fdopen(os.open(ours, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as stream:
            stream.write(pem)
        if not file.exists():
            ours.replace(file)
    finally:
        ours.unlink(missing_ok=True)
