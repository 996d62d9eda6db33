"""The endpoint: pictures of stored identities over HTTP, in OpenAI's format, on Ray Serve.

`web/` the page at `/`; `browsing.py` routes that show what a root holds; `openai/` what goes in and out, what each
route does, errors -> statuses; `catalog.py` the identities as the endpoint sees them; `client.py` asks the replicas for
pictures; `drawing.py` such a replica, `loop.py` the thread in it that owns the engine; `app.py` routes, deployments,
start and stop; `stopping.py` how what is under way is finished first; `settings.py` what they run with. This package is
called `serve`, so Ray's is always imported as `from ray import serve as ray_serve`.
"""
