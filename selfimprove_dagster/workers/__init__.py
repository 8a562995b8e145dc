"""Let several processes, on this machine or in a Ray cluster, work on the shards of one stage."""
