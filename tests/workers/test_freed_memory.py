"""Memory that is freed stays with a program until it gives it back, and lies in huge pages."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from parallel_nst.workers.freed_memory import OVERCOMMIT

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


MARKED = f"""
import re, torch
from pathlib import Path
from parallel_nst.workers.freed_memory import give_back, keep_memory

def marked(array):
    for part in re.split(r"(?m)^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text())[1:]:
        first, last = (int(end, 16) for end in part.split()[0].split("-"))
        if first <= array.data_ptr() + {ARRAY} // 2 < last:
            return " hg" in re.search("VmFlags:(.*)", part)[1]

keep_memory()
print(marked(torch.empty({ARRAY}, dtype=torch.uint8)))
give_back()
print(marked(torch.empty({ARRAY}, dtype=torch.uint8)))
"""


@pytest.mark.skipif(not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="of Linux with huge pages")
@pytest.mark.skipif(OVERCOMMIT.exists() and OVERCOMMIT.read_text().strip() == "2", reason="of systems that overcommit")
def test_large_arrays_lie_where_the_system_is_asked_for_huge_pages() -> None:
    run = subprocess.run([sys.executable, "-c", MARKED], check=True, stdout=subprocess.PIPE, text=True)
    assert run.stdout.split() == ["True", "True"]


LARGE = """
import psutil, torch
from parallel_nst.workers.freed_memory import give_back, keep_memory

keep_memory()
hole = torch.empty(psutil.virtual_memory().available // 4, dtype=torch.uint8)  # nothing of it is touched
above = torch.empty(1 << 20, dtype=torch.uint8)
del hole
give_back()
print(psutil.Process().memory_info().vms < psutil.virtual_memory().total)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
def test_a_program_does_not_look_larger_than_the_memory() -> None:
    """Systems that guess how much is too much do not let it start another one."""
    run = subprocess.run([sys.executable, "-c", LARGE], check=True, stdout=subprocess.PIPE, text=True)
    assert run.stdout.split() == ["True"]
