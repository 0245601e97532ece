"""Scale a workload of this cluster, from a pod: `scale.py deployments/NAME REPLICAS [NAMESPACE]`.

The hooks `wake` and `sleep` of a model call it where the chart starts and stops its backend. It uses what Kubernetes
lays into a pod: the service account's token, read anew each time as it changes, and the cluster's certificates.
Exit 0 when the API server took it; else 1, and why on standard error.
"""

from __future__ import annotations

import json
import os
import ssl
import sys
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import quote

ACCOUNT = Path(os.environ.get("SERVICE_ACCOUNT_DIR", "/var/run/secrets/kubernetes.io/serviceaccount"))
KINDS = ("deployments", "statefulsets")
TIMEOUT_SECONDS = 20


def main(arguments: list[str]) -> int:
    """Scale once."""
    try:
        kind, _, name = arguments[0].partition("/")
        replicas = int(arguments[1])
        namespace = arguments[2] if len(arguments) > 2 else (ACCOUNT / "namespace").read_text().strip()
        if kind not in KINDS or not name or replicas < 0:
            raise ValueError(f"name {' or '.join(one + '/NAME' for one in KINDS)}, and how many")
        scale(kind, name, replicas, namespace)
    except urllib.error.HTTPError as error:
        said = error.read(500).decode(errors="replace")
        print(f"the API server answers {error.code}: {said}", file=sys.stderr)
        return 1
    except (IndexError, OSError, ValueError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


def scale(kind: str, name: str, replicas: int, namespace: str) -> None:
    """Set how many pods there are; raises HTTPError where the API server refuses, OSError where it is not reached."""
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST", ""), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    if not host:
        raise ValueError("KUBERNETES_SERVICE_HOST is not set: this runs in a pod of Kubernetes only")
    address = f"[{host}]" if ":" in host else host
    path = f"/apis/apps/v1/namespaces/{quote(namespace, safe='')}/{kind}/{quote(name, safe='')}/scale"
    request = urllib.request.Request(
        f"https://{address}:{port}{path}",
        data=json.dumps({"spec": {"replicas": replicas}}).encode(),
        method="PATCH",
        headers={
            "authorization": f"Bearer {(ACCOUNT / 'token').read_text().strip()}",
            "content-type": "application/merge-patch+json",
        },
    )
    context = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    with direct.open(request, timeout=TIMEOUT_SECONDS) as answer:
        answer.read()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
