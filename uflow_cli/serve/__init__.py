"""Detection over HTTP: a process that stays, with models loaded, and answers in milliseconds.

An image goes through these files: `server` (connections), `app` (addresses, tokens, errors), `bodies` (bytes),
`batches` (decoding, and images of several clients computed together), `answers` (what is said of it). The only room
that knows FastAPI and uvicorn.
"""

from uflow_cli.serve.app import create_app
from uflow_cli.serve.limits import Limits
from uflow_cli.serve.server import bind, serve

__all__ = ["Limits", "bind", "create_app", "serve"]
