"""The pytest plugin: ``pytest --find-races`` tries the requests that the tests make at once."""
