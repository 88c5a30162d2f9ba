"""Memory that is freed stays with a program until it gives it back."""

import json
import subprocess
import sys

import pytest

ARRAY = 80 << 20  # bytes
PROGRAM = f"""
import json, psutil, torch
from parallel_nst.workers.freed_memory import give_back, keep_memory

def taken():
    return psutil.Process().memory_info().rss

keep_memory()
torch.ones(8)  # the first call loads what it needs
before = taken()
array = torch.ones({ARRAY} // 4)
held = taken()
del array
freed = taken()
give_back()
print(json.dumps([size - before for size in (held, freed, taken())]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
def test_freed_memory_stays_until_it_is_given_back() -> None:
    run = subprocess.run([sys.executable, "-c", PROGRAM], check=True, stdout=subprocess.PIPE, text=True)
    held, freed, given_back = json.loads(run.stdout)
    assert freed > held - ARRAY // 8
    assert given_back < held - ARRAY // 2
