"""The demo's plant: who orders, what is made, who works there. Invented, every one of them."""

from __future__ import annotations

CLIENTS = (
    # name, ABN, contact, city
    ("Bellwether Paper", "51 824 753 556", "Jane Roe", "Geelong VIC"),
    ("Harbour Films", "33 051 775 556", "Omar Haddad", "Fremantle WA"),
    ("Kookaburra Tissue", "80 009 661 901", "Lucy Tran", "Dandenong VIC"),
    ("Northgate Labels", "12 004 044 937", "Peter Vance", "Northgate QLD"),
    ("Southern Textiles", "46 003 498 130", "Anika Rao", "Wangaratta VIC"),
    ("Tallowwood Packaging", "29 002 589 460", "Col Brady", "Coffs Harbour NSW"),
    ("Eureka Carpets", "64 007 117 120", "Marta Silva", "Ballarat VIC"),
    ("Redcliffe Foils", "77 010 669 726", "Hugh Penn", "Redcliffe QLD"),
    ("Murray Mills", "15 004 167 259", "Dee Okafor", "Albury NSW"),
    ("Pinnacle Print", "98 000 123 404", "Yuki Mori", "Adelaide SA"),
    ("Wattle & Sons", "21 008 532 072", "Ned Wattle", "Hobart TAS"),
    ("Quayside Converters", "40 005 142 361", "Ines Duarte", "Newcastle NSW"),
)

PRODUCTS = (
    # code, name, unit, price in cents
    ("SUB-350", "Substrate roll, 350 gsm kraft", "rolls", 18400),
    ("SUB-450", "Substrate roll, 450 gsm kraft", "rolls", 22150),
    ("SUB-550", "Substrate roll, 550 gsm board", "rolls", 26900),
    ("SUB-WHT", "Substrate roll, white lined", "rolls", 31200),
    ("CORE-038", "Core 38 mm, 3 mm wall", "pieces", 46),
    ("CORE-050", "Core 50 mm, 3 mm wall", "pieces", 58),
    ("CORE-076-3", "Core 76 mm, 3 mm wall", "pieces", 74),
    ("CORE-076-5", "Core 76 mm, 5 mm wall", "pieces", 98),
    ("CORE-076-13", "Core 76 mm, 13 mm wall", "pieces", 240),
    ("CORE-152", "Core 152 mm, 8 mm wall", "pieces", 385),
    ("CORE-152-HD", "Core 152 mm, heavy duty", "pieces", 520),
    ("CORE-200", "Core 200 mm, 10 mm wall", "pieces", 690),
    ("TUBE-MAIL-S", "Mailing tube, small", "pieces", 88),
    ("TUBE-MAIL-L", "Mailing tube, large", "pieces", 132),
    ("TUBE-CARPET", "Carpet tube, 3.9 m", "pieces", 1240),
    ("TUBE-TEXTILE", "Textile tube, 1.6 m", "pieces", 410),
    ("ANGLE-50", "Edge protector, 50 mm", "pieces", 35),
    ("ANGLE-75", "Edge protector, 75 mm", "pieces", 52),
    ("PLUG-076", "Plug for 76 mm core", "pieces", 12),
    ("PALLET-H", "Hardwood pallet", "pieces", 2650),
)

STAFF = (
    # name, login, position, cents an hour, hours of annual, sick and personal leave
    ("Alice Hammond", "admin", "Office manager", 4800, 96, 60, 20),
    ("Sam Whitfield", "sales", "Sales", 4100, 54, 45, 15),
    ("Mara Lindqvist", "mara", "Sales", 4100, 121, 76, 15),
    ("Tomas Reyes", "tomas", "Sales", 4100, 38, 30, 8),
    ("Priya Nair", "production_manager", "Production manager", 5200, 140, 76, 23),
    ("Jack Doyle", "production_team", "Winder", 3450, 66, 40, 15),
    ("Wen Zhao", "supervisor", "Floor supervisor", 4300, 82, 52, 15),
    ("Grace Oduya", "manager", "Payroll manager", 4950, 104, 68, 23),
    ("Liam Foster", "employee", "Finisher", 3300, 15, 8, 8),
    ("Tui Parata", None, "Slitter", 3450, 47, 34, 15),
    ("Bonnie Hale", None, "Driver", 3380, 72, 22, 8),
    ("Emil Novak", None, "Winder", 3450, 29, 60, 15),
)

STAGE_COUNTS = (
    ("order_entered", 6),
    ("pending_material", 4),
    ("paper_slitting", 5),
    ("winding", 6),
    ("finishing", 5),
    ("delivery", 4),
    ("cancelled", 1),
    ("invoicing", 3),
    ("accounting_transaction", 2),
    ("cleared", 4),
)

NOTES = (
    "",
    "Deliver before 10 am, dock 3.",
    "Client collects. Call when finished.",
    "Check inner diameter on the first ten pieces.",
    "Stretch-wrap each pallet; no strapping.",
    "",
    "Repeat of last month's order.",
)
