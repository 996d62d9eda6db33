"""The endpoint: pictures of stored identities over HTTP, in OpenAI's format, on Ray Serve.

`schemas.py` what goes in and out; `store.py` the identities as the endpoint sees them; `generator.py` the replica that
joins requests into UNet batches; `endpoint.py` what each route does; `app.py` routes, errors -> statuses, deployments,
start and stop. This package is called `serve`, so Ray's is always imported as `from ray import serve as ray_serve`.
"""
