"""The stock operation served by Flask: `python examples/flask_stock.py --port 8001`.

Then, twice at once: one is told yes, one is told that 20 are left.

    curl -H 'content-type: application/json' -d '{"product_id": 7, "quantity": 80}' \
         http://127.0.0.1:8001/stock/allocate
"""

from __future__ import annotations

import argparse

from flask import Flask, Response
from stock_operations import DATABASE, Base, allocate, levels, restock
from werkzeug.serving import make_server

from crowdsafe import Store
from crowdsafe.web.flask import idempotent_write, install, json_answer, json_body


def make_app(database: str) -> Flask:
    """The application; Flask's part in it is to read the request and to send the answer."""
    app = Flask("stock")
    install(app)
    store = Store(database)
    store.create_all(Base.metadata)
    store.write(restock)

    @app.post("/stock/allocate")
    def allocate_stock() -> Response:
        body = json_body()
        return idempotent_write(
            store,
            allocate,
            whose="everyone",
            product_id=body.get("product_id"),
            quantity=body.get("quantity"),
        )

    @app.get("/stock")
    def stock() -> Response:
        return json_answer(store.read(levels))

    return app


def main() -> None:
    """Serve until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--port", type=int, default=8001, help="0 takes a free one")
    parser.add_argument("--database", default=DATABASE)
    options = parser.parse_args()
    server = make_server("127.0.0.1", options.port, make_app(options.database), threaded=True)
    print(f"http://127.0.0.1:{server.server_port}/stock on {options.database}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print("stopped")
