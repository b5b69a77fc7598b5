"""crowdsafe over HTTP: one module for each framework (``crowdsafe.web.fastapi``), and its parts."""
