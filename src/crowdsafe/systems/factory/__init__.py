"""Misty Manufacturing: orders, stock, stages, invoices, timesheets and leave of a plant.

`models` and `operations` know no framework; `api` and `pages` serve them by FastAPI.
"""
