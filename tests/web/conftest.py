"""The web room needs the extra `web`, and httpx2 to call it."""

import importlib.util

collect_ignore = (
    []
    if all(importlib.util.find_spec(name) for name in ("fastapi", "httpx2", "python_multipart", "prometheus_client"))
    else ["test_api.py", "test_web_safety.py", "test_page.py", "test_restart.py", "test_guards.py"]
)
