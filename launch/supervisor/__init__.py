"""Starting, watching and ending the processes of a topology."""

from launch.supervisor.run import Plan, Progress, run_topology

__all__ = ["Plan", "Progress", "run_topology"]
