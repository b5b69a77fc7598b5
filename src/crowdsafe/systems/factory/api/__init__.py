"""The factory over HTTP: thin routers under ``/factory/api``. Every operation takes a login."""

from __future__ import annotations

from fastapi import APIRouter, Depends

from crowdsafe.systems.factory.api import orders, reference, staff, stock
from crowdsafe.web.fastapi import current_user

router = APIRouter(prefix="/factory/api", tags=["factory"], dependencies=[Depends(current_user)])
router.include_router(stock.router)
router.include_router(orders.router)
router.include_router(staff.router)
router.include_router(reference.router)
