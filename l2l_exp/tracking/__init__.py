"""Tracking: the door for writing a run, and the read-only store beside it.

The only package that knows MLflow, which is imported when a tracker is opened.
"""

from l2l_exp.tracking.mlflow_tracker import MlflowTracker
from l2l_exp.tracking.store import FOLDER_TAG, Store, Tracked, TrackingError, absolute_uri
from l2l_exp.tracking.tracker import End, NoTracker, Tracker
from l2l_exp.tracking.trained import tracked_rule, trained_rule

__all__ = [
    "FOLDER_TAG",
    "End",
    "MlflowTracker",
    "NoTracker",
    "Store",
    "Tracked",
    "Tracker",
    "TrackingError",
    "absolute_uri",
    "tracked_rule",
    "trained_rule",
]
