"""What the system counts of processes that it has killed for their memory."""

import pytest

from parallel_nst.workers.ray.memory_kills import memory_kills

TWO = {"sys/fs/cgroup/user/run/memory.events": "low 0\noom 2\noom_kill 5\noom_group_kill 0\n"}
ONE = {"sys/fs/cgroup/memory/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 6\n"}
MACHINE = {"proc/vmstat": "nr_free_pages 12\noom_kill 7\n"}


@pytest.mark.parametrize(
    ("groups", "files", "count"),
    [
        ("0::/user/run\n", MACHINE | TWO, 5),
        ("0::/user/run/of-the-host\n", MACHINE | TWO, 5),
        ("9:cpu:/x\n8:memory:/docker/abc\n", MACHINE | ONE, 6),
        ("0::/\n", MACHINE, 7),
        ("0::/\n", {"proc/vmstat": "nr_free_pages 12\n"}, 0),
        ("0::/\n", {"proc/vmstat": "what is\nthis\n"}, 0),
        (None, {}, 0),
    ],
)
def test_the_nearest_count_is_taken(tmp_path, groups, files, count):
    for name, text in (files | ({"proc/self/cgroup": groups} if groups else {})).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert memory_kills(tmp_path) == count


def test_this_machine_has_a_count():
    assert memory_kills() >= 0
