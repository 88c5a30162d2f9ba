"""The only place that knows Ray."""

import os

# Ray reads its settings when it is imported. Workers would otherwise run at niceness 15, and the notices of deaths that
# the pool handles itself would appear on standard output.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_worker_niceness", "0")
os.environ.setdefault("RAY_enable_output_error_log_if_still_retry", "0")
# Ray's thread that reports figures lives on after `ray.shutdown`, and crashes where it is at work as the program ends.
# Nobody asks a Ray of our own for figures.
os.environ.setdefault("RAY_enable_open_telemetry", "0")
os.environ.setdefault("RAY_enable_metrics_collection", "0")
# When its processes have died, Ray ends this program as soon as it takes note of a task that has failed with them:
# leave it the time to go first (see `lifeline`). Of workers that have died Ray hears sooner than that.
os.environ.setdefault("RAY_timeout_ms_task_wait_for_death_info", "20000")
# Ray 2.60 leaves the list of visible GPUs alone for a worker that asked for none, and older ones empty it; 0 is the
# newer way, without the older one's warning that it will change.
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
