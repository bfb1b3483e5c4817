"""TLS for grpcio's server: certificates are read again at each handshake, so that they are changed without a restart."""

import logging
import ssl
import threading
from pathlib import Path
from typing import Any, NamedTuple

import grpc

from serving.door.section import Tls
from serving.errors import ServingError

__all__ = ["Pem", "Rotating", "credentials", "read_pem"]

_logger = logging.getLogger(__name__)


class Pem(NamedTuple):
    """The files of a section: certificate chain, private key, and authorities of client certificates or None."""

    certificate: bytes
    key: bytes
    client_ca: bytes | None


def read_pem(section: Tls) -> Pem:
    """The files, if certificate and key belong together. Raises ServingError, naming the file, never its content."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(section.certificate, section.key)
        if section.client_ca is not None:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(section.client_ca)
        client_ca = None if section.client_ca is None else Path(section.client_ca).read_bytes()
        return Pem(Path(section.certificate).read_bytes(), Path(section.key).read_bytes(), client_ca)
    except (OSError, ssl.SSLError) as error:
        names = f"{section.certificate}, {section.key}, {section.client_ca}"
        raise ServingError(f"tls: {names}: {error.strerror or type(error).__name__}; give PEM files that belong together") from None


class Rotating:
    """The files as they are now; while they are being changed, those before. Thread-safe."""

    def __init__(self, section: Tls) -> None:
        """Raises ServingError if they cannot be used."""
        self._section, self._lock = section, threading.Lock()
        self._stamp = self._stamp_now()
        self.pem = read_pem(section)

    def changed(self) -> Pem | None:
        """Other files than at the last question; None where they are the same, or don't belong together yet."""
        with self._lock:
            stamp = self._stamp_now()
            if stamp == self._stamp:
                return None
            try:
                found = read_pem(self._section)
            except ServingError as error:
                # Half of a change, or a bad one: asked again at the next handshake, as long as the stamp differs.
                _logger.error("%s; the certificate before stays", error)
                return None
            self._stamp, self.pem = stamp, found
            _logger.info("tls: %s is served now", self._section.certificate)
            return found

    def _stamp_now(self) -> list[tuple[int, int]]:
        paths = [self._section.certificate, self._section.key, self._section.client_ca]
        found = [Path(path).stat() for path in paths if path is not None and Path(path).exists()]
        return [(item.st_mtime_ns, item.st_ino) for item in found]


def credentials(section: Tls) -> Any:
    """Of grpcio's server: TLS 1.2 or newer (its own least), and a client certificate wherever authorities are named."""
    rotating = Rotating(section)

    def fetch() -> Any:
        found = rotating.changed()
        return None if found is None else _configuration(found)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(rotating.pem), fetch, require_client_authentication=section.client_ca is not None
    )


def _configuration(pem: Pem) -> Any:
    return grpc.ssl_server_certificate_configuration([(pem.key, pem.certificate)], root_certificates=pem.client_ca)
