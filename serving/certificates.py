"""The certificates of a server: read from its files, and read again when they change, so that none expires in a running server.

Connections that stand keep what they were made with. Files that do not belong together (a rotation half done) change nothing.
"""

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import grpc

from serving.config import Tls
from serving.errors import ServingError

__all__ = ["CertificateWatch", "Pem", "dynamic_credentials", "read_pem"]

_logger = logging.getLogger(__name__)
# How often the files are looked at: a rotation is due in hours.
_EVERY_S = 1.0


class Pem(NamedTuple):
    """PEM of the certificate chain, of its key, and of those who sign clients (None: clients need no certificate)."""

    certificate: bytes
    key: bytes
    client_ca: bytes | None


def read_pem(tls: Tls) -> Pem:
    """What stands in the files now. Raises ServingError that names the one that cannot be read."""
    client_ca = None if tls.client_ca is None else _read(tls.client_ca, "tls.client_ca")
    return Pem(_read(tls.certificate, "tls.certificate"), _read(tls.key, "tls.key"), client_ca)


def _read(path: Path, key: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ServingError(f"{key}: {path} cannot be read ({error.strerror}); give a PEM file that this process may read") from error


class CertificateWatch:
    """A thread that hands over what the files hold whenever it is another than before. Ends with the process, or by `close`."""

    def __init__(self, tls: Tls, *, known: Pem, renew: Callable[[Pem], None], every_s: float = _EVERY_S) -> None:
        """`known`: what is in use. `renew` raises ValueError for what cannot be used."""
        self._tls, self._known, self._renew, self._every_s = tls, known, renew, every_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="certificates", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the thread."""
        self._stop.set()
        self._thread.join()

    def look(self) -> None:
        """One look at the files."""
        try:
            found = read_pem(self._tls)
            if found != self._known:
                self._known = found
                self._renew(found)
                _logger.info("tls: new connections are encrypted by the new %s", self._tls.certificate)
        except (ServingError, ValueError) as error:
            _logger.error("tls: the certificate before stays in use (%s)", error)

    def _run(self) -> None:
        while not self._stop.wait(self._every_s):
            self.look()


def dynamic_credentials(pem: Pem) -> tuple[Any, Callable[[Pem], None]]:
    """Credentials for grpcio's server, and what exchanges them."""

    def configured(pem: Pem) -> Any:
        return grpc.ssl_server_certificate_configuration([(pem.key, pem.certificate)], root_certificates=pem.client_ca)

    newest = [configured(pem)]

    def renew(pem: Pem) -> None:
        newest[0] = configured(pem)

    needed = pem.client_ca is not None
    return grpc.dynamic_ssl_server_credentials(newest[0], lambda: newest[0], require_client_authentication=needed), renew
