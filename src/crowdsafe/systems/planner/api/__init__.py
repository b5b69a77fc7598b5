"""The planner over HTTP: thin routers under ``/planner/api``."""

from __future__ import annotations

from fastapi import APIRouter

from crowdsafe.systems.planner.api import account, jobs, payments, plans

__all__ = ["router"]

router = APIRouter(prefix="/planner/api", tags=["planner"])
router.include_router(plans.router)
router.include_router(jobs.router)
router.include_router(account.router)
router.include_router(payments.router)
