"""The page at `/`: `page.py` sends it, `index.html` is its frame, `static/` its scripts and styles.

Plain JavaScript modules and CSS, nothing to build and nothing from elsewhere. The page calls the same routes as
anybody; what a server has no route for is not shown.
"""
