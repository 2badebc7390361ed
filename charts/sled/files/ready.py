"""What `helm test` runs: the operator answers, is ready, and counts."""

import os
import sys
import urllib.request

base = os.environ["OPERATOR_URL"]
for path, wanted in (("/healthz", ""), ("/readyz", ""), ("/metrics", "sled_operator_")):
    try:
        with urllib.request.urlopen(base + path, timeout=10) as answer:
            text = answer.read(1 << 20).decode()
    except OSError as error:
        sys.exit(f"{base}{path}: {error}")
    if wanted not in text:
        sys.exit(f"{base}{path} answers, but without {wanted}")
    print(f"{path}: ok")
