"""What every attention module promises, whoever wrote it: checks that need nothing but torch and the registry."""

from attnzoo.contract import promises as promises  # which adds them to CHECKS
from attnzoo.contract.runner import CHANNELS, CHECKS, SIZES, Check, Result, Subject, check, fitting

__all__ = ["CHANNELS", "CHECKS", "SIZES", "Check", "Result", "Subject", "check", "fitting"]
