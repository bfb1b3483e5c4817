"""Tokens: JSON Web Tokens (RFC 7519) of one issuer, by keys that the server has the public part of. Touches the file of keys and the clock.

Only algorithms of the config are taken, and only the one that the key itself is for: a token can neither name `none`, nor have a public key
taken for a shared secret. What a refused token held is never told.
"""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from serving.door.rights import SCOPES
from serving.door.section import Auth
from serving.errors import ServingError, Unauthenticated

__all__ = ["Caller", "Tokens"]

# Tokens whose signature was checked already: a check costs a tenth of a millisecond.
_KEPT = 4096
# Half of what gRPC takes as metadata without fail.
_LONGEST = 4 << 10
_REMEDY = "send `authorization: Bearer TOKEN` with a token of this server's issuer and audience"


class Caller(NamedTuple):
    """Who calls: a name for the audit log, scopes, tenants (EVERY_TENANT = all), and until when, seconds since the epoch."""

    name: str
    scopes: frozenset[str]
    tenants: frozenset[str]
    expires_s: float


class Tokens:
    """Checks tokens. Thread-safe."""

    def __init__(self, section: Auth, *, now_s: Callable[[], float]) -> None:
        """Raises ServingError where PyJWT is not installed, or the file holds no key that may be used."""
        self._jwt = _pyjwt()
        self._section, self._now_s = section, now_s
        self._file = Path(section.keys)
        self._lock = threading.Lock()
        self._stamp = self._stamp_now()
        self._keys = self._read()
        self._known: dict[str, Caller] = {}

    def caller(self, token: str) -> Caller:
        """Who a token speaks for. Raises Unauthenticated."""
        self._follow()
        found = self._known.get(token)
        if found is None:
            found = self._checked(token)
            with self._lock:
                if len(self._known) >= _KEPT:
                    self._known.clear()
                self._known[token] = found
        if found.expires_s + self._section.leeway_s <= self._now_s():
            raise Unauthenticated(f"authorization: the token has expired; {_REMEDY}")
        return found

    def _checked(self, token: str) -> Caller:
        jwt, section = self._jwt, self._section
        if len(token) > _LONGEST:
            raise Unauthenticated(f"authorization: the token has {len(token)} characters; give at most {_LONGEST}")
        try:
            header = jwt.get_unverified_header(token)
            key = self._keys.get(header.get("kid")) if len(self._keys) > 1 or "kid" in header else next(iter(self._keys.values()))
            if key is None or header.get("alg") not in section.algorithms or header["alg"] != key.algorithm_name:
                raise Unauthenticated(f"authorization: the token is signed by no key that is known here; {_REMEDY}")
            claims = jwt.decode(
                token,
                key,
                algorithms=[key.algorithm_name],
                audience=section.audience,
                issuer=section.issuer or None,
                leeway=section.leeway_s,
                options={"require": ["exp", "aud", "sub"]},
            )
        except jwt.InvalidTokenError as error:
            raise Unauthenticated(f"authorization: the token is refused ({type(error).__name__}); {_REMEDY}") from None
        return _caller(claims)

    def _follow(self) -> None:
        """Takes the keys of a file that has changed; one that cannot be read leaves those before."""
        stamp = self._stamp_now()
        if stamp == self._stamp:
            return
        with self._lock:
            self._stamp = stamp
            try:
                self._keys, self._known = self._read(), {}
            except ServingError:
                # Whoever changes the file by renaming never meets this; else the next change is looked at.
                return

    def _stamp_now(self) -> tuple[int, int]:
        try:
            found = self._file.stat()
        except OSError:
            return (0, 0)
        return (found.st_mtime_ns, found.st_ino)

    def _read(self) -> dict[str | None, Any]:
        try:
            listed = json.loads(self._file.read_text())["keys"]
            keys = [self._jwt.PyJWK(entry) for entry in listed if "d" not in entry and entry.get("kty") != "oct"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError, self._jwt.PyJWTError) as error:
            raise ServingError(f"auth.keys: {self._file} is no key set ({type(error).__name__}); give a JWKS of public keys") from None
        found = {key.key_id: key for key in keys if key.algorithm_name in self._section.algorithms}
        if not found or len(found) < len(listed):
            allowed = ", ".join(self._section.algorithms)
            raise ServingError(
                f"auth.keys: {self._file} has {len(listed)} keys, {len(found)} of use; give public keys for {allowed}, each its kid"
            )
        return found


def _caller(claims: dict[str, Any]) -> Caller:
    scope, tenants = claims.get("scope", ""), claims.get("tenants", [])
    if not isinstance(scope, str) or not isinstance(tenants, list) or not all(isinstance(item, str) for item in tenants):
        raise Unauthenticated("authorization: the token's `scope` is no text, or its `tenants` no list of names; have it issued anew")
    return Caller(str(claims["sub"]), frozenset(scope.split()) & frozenset(SCOPES), frozenset(tenants), float(claims["exp"]))


def _pyjwt() -> Any:
    try:
        import jwt
    except ImportError as error:
        raise ServingError(f"auth: tokens cannot be checked here ({error}); pip install 'slateloop[auth]'") from error
    return jwt
