"""Is a backend there, and does it know the model? Asks for its list of models, which costs nothing."""

from __future__ import annotations

from urllib.parse import urlsplit

import httpx

from shared.backend_settings import BackendSettings
from shared.redis_checks import Check
from shared.tls_files import client_context, system_context

BACKEND_TIMEOUT_SECONDS = 5.0


def client_of(backend: BackendSettings, timeout_seconds: float = BACKEND_TIMEOUT_SECONDS) -> httpx.Client:
    """Return a client that goes the way that workers go: by the backend's own proxy alone, by its certificates."""
    files = (backend.ca_file, backend.client_certificate, backend.client_key)
    proxy = None
    if backend.proxy is not None:
        url = backend.proxy.get_secret_value()
        proxy = httpx.Proxy(url, ssl_context=client_context(backend.ca_file) if url.startswith("https:") else None)
    return httpx.Client(
        timeout=timeout_seconds,
        trust_env=False,
        verify=client_context(*files) if any(files) or proxy or backend.http2 else system_context(),
        proxy=proxy,
        http1=not backend.http2 or backend.url.startswith("https:"),
        http2=backend.http2,
    )


def headers_of(backend: BackendSettings) -> dict[str, str]:
    """Return the headers that every call has."""
    headers = {name: value.get_secret_value() for name, value in (backend.headers or {}).items()}
    if backend.api_key is not None:
        headers["authorization"] = f"Bearer {backend.api_key.get_secret_value()}"
    return headers


def label_of(public_name: str, backend: BackendSettings) -> str:
    """Return the name of a backend's findings, without a password in its URL."""
    parts = urlsplit(backend.url)
    return f"backend {parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path} of {public_name}"


def other_url(url: str) -> str:
    """Return the URL with `/v1` at its end, or without it if it has one: what most who mistake it have meant."""
    return url.removesuffix("/v1") if url.endswith("/v1") else f"{url}/v1"


def shown(url: str) -> str:
    """Return a URL without the name and password in it."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def refused_key(name: str, backend: BackendSettings, status: int) -> Check:
    """Return the finding for a 401 or 403."""
    if backend.api_key or backend.headers:
        fix = "mend api_key, or the header in headers that it wants a key in (api-key: ${NAME})"
        return Check(name, "fail", f"answered {status}: it refuses the key", fix)
    fix = "give it an api_key: ${NAME}, or headers: {NAME-OF-HEADER: ${NAME}} where it wants one under another name"
    return Check(name, "fail", f"answered {status}: it refuses no key", fix)


def backend_check(public_name: str, backend: BackendSettings) -> Check:
    """Ask a backend for its models; the finding shows neither its key nor a password in its URL."""
    name = label_of(public_name, backend)
    other = 0
    try:
        with client_of(backend) as client:
            response = client.get(f"{backend.url}/models", headers=headers_of(backend))
            if response.status_code in (404, 405):
                other = client.get(f"{other_url(backend.url)}/models", headers=headers_of(backend)).status_code
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeEncodeError) as error:
        return unreachable(name, error)
    if response.status_code == 407:
        return Check(name, "fail", "cannot be reached: its proxy refuses", "mend proxy, its password too")
    if response.status_code in (401, 403):
        return refused_key(name, backend, response.status_code)
    if response.status_code in (404, 405):
        fix = f"set url: {shown(other_url(backend.url))}, which has one" if other == 200 else "most urls end in /v1"
        return Check(name, "warn", f"answered {response.status_code}: it has no list of models", fix)
    if response.status_code != 200:
        return Check(name, "fail", f"answered {response.status_code}", "see its own log")
    return _listed(name, backend.model or public_name, response)


def unreachable(name: str, error: Exception, seconds: float = BACKEND_TIMEOUT_SECONDS) -> Check:
    """Return the finding for a call without an answer."""
    if isinstance(error, httpx.TimeoutException):
        message = f"did not answer within {seconds:g} s"
        return Check(name, "fail", message, "see whether it is overloaded")
    if isinstance(error, httpx.ProxyError):
        return Check(name, "fail", "cannot be reached: its proxy refuses", "mend proxy, its password too")
    return Check(name, "fail", f"cannot be reached ({type(error).__name__})", "start it, or mend its url")


def _listed(name: str, wanted: str, response: httpx.Response) -> Check:
    try:
        listed = [str(model["id"]) for model in response.json()["data"]]
    except (ValueError, KeyError, TypeError):
        fix = "see whether the url is that of an OpenAI-compatible server; most end in /v1"
        return Check(name, "warn", "answered 200, but no list of models", fix)
    if wanted in listed:
        return Check(name, "ok", f"reachable, lists {wanted!r}")
    some = ", ".join(map(repr, listed[:5])) or "none"
    return Check(name, "warn", f"does not list {wanted!r} (it lists {some})", "set `model:` to the backend's own name")
