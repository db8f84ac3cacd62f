"""Declarative rules of a federation, and decisions over them.

Here: the checked policy and the pure decisions, on the standard library alone. Reading a file (`load_policy`,
`check_policy`) is in `mhfl_mq.policy.load` and needs the extra `server`.
"""

from mhfl_mq.policy.communication import How, choose, upload_bytes, ways
from mhfl_mq.policy.compiled import (
    API_VERSION,
    Algorithm,
    Budget,
    Communication,
    Gate,
    Limits,
    Participation,
    Policy,
    Quorum,
    Schedule,
    StageUse,
    Tier,
    Window,
)
from mhfl_mq.policy.decide import (
    Decision,
    Invitation,
    Luck,
    Member,
    Reason,
    assign_tier,
    best_tiers,
    gate,
    invite,
    quorum_needed,
    transfer_seconds,
)

__all__ = [
    "API_VERSION",
    "Algorithm",
    "Budget",
    "Communication",
    "Decision",
    "Gate",
    "How",
    "Invitation",
    "Limits",
    "Luck",
    "Member",
    "Participation",
    "Policy",
    "Quorum",
    "Reason",
    "Schedule",
    "StageUse",
    "Tier",
    "Window",
    "assign_tier",
    "best_tiers",
    "choose",
    "gate",
    "invite",
    "quorum_needed",
    "transfer_seconds",
    "upload_bytes",
    "ways",
]
