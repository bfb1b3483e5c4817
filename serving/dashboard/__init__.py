"""`serving dashboard`: a page that shows the loop, and the JSON behind it. It only reads, and says in place what it cannot find.

`prometheus.py` asks servers and joiner, `loads.py` makes rates and latencies of what they say, `standing.py` reads the store, `rows.py` the
observations, `state.py` puts them together, `web.py` answers browsers; `page/` is what they get: HTML, CSS and JavaScript as they are.
"""
