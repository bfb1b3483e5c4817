"""What the server's file says of who may come in: the sections `tls`, `auth` and `tenants`."""

from typing import Literal

import pydantic

from protos import config

__all__ = ["ALGORITHMS", "Auth", "TenantLimits", "Tls"]

Algorithm = Literal["ES256", "RS256", "EdDSA"]
#: Signatures that are taken: by keys of which the server holds the public part only. `none` and shared secrets are not among them.
ALGORITHMS: tuple[Algorithm, ...] = ("ES256", "RS256", "EdDSA")


class Tls(config.StrictModel):
    """The section `tls`: TLS 1.2 or newer. The files are looked at again at each handshake, so they are changed without a restart."""

    #: PEM file of the server's certificate, with those of its issuers behind it.
    certificate: str
    #: PEM file of its private key.
    key: str
    #: PEM file of the authorities whose client certificates are taken; null = clients need none.
    client_ca: str | None = None


class Auth(config.StrictModel):
    """The section `auth`: every call but health needs a token (`authorization: Bearer JWT`). Needs slateloop[auth]."""

    #: JSON Web Key Set (RFC 7517) of the issuer's public keys; read again when it changes.
    keys: str
    #: What a token's `aud` must name.
    audience: str = pydantic.Field(min_length=1)
    #: What its `iss` must be; empty = anything.
    issuer: str = ""
    #: How far clocks may differ, seconds, 0..300.
    leeway_s: float = pydantic.Field(default=10.0, ge=0.0, le=300.0)
    #: Signatures that are taken, among those that there are.
    algorithms: tuple[Algorithm, ...] = pydantic.Field(default=ALGORITHMS, min_length=1)


class TenantLimits(config.StrictModel):
    """What a tenant may ask one process for; a worker is a process. Beyond it: RESOURCE_EXHAUSTED, with the time to wait."""

    #: Requests a second, > 0 (each request of a batch, each event of Feedback); null = any number.
    rate_per_s: float | None = pydantic.Field(default=None, gt=0.0)
    #: Requests that may come at once after a pause, >= 1; null = those of one second.
    burst: int | None = pydantic.Field(default=None, ge=1)
    #: Calls that may run at once, >= 1; null = any number.
    concurrent: int | None = pydantic.Field(default=None, ge=1)
