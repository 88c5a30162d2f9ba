"""The web room needs the extra `web`, and httpx2 to call it."""

import importlib.util
from pathlib import Path

collect_ignore = (
    []
    if all(importlib.util.find_spec(name) for name in ("fastapi", "httpx2", "python_multipart", "prometheus_client"))
    else [path.name for path in Path(__file__).parent.glob("test_*.py") if path.name != "test_store.py"]
)
