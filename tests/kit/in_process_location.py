"""The code location as it ships, but with steps in the run's own process: what the daemon test loads."""

import dagster as dg

from selfimprove_dagster import definitions

defs = dg.Definitions.merge(definitions.defs, dg.Definitions(executor=dg.in_process_executor))
