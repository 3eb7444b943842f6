"""Any OpenAI-compatible server as a `ChatModel`: one `Endpoint` per base URL, one `EndpointModel` per model on it.

dialect.py   how this server wants its requests (learned from its own error messages)
body.py      the request body, spliced from prebuilt bytes
images.py    images encoded once, in a thread, kept within a byte budget
reply.py     what a reply means: a completion, a fault worth retrying, or an error to report
retry.py     how long a server asks to wait
pace.py      requests and tokens per minute, and who gets the next free slot
server.py    one server: pool, limits, key, and the budget of retries
client.py    one model on it, and the one loop that retries
"""

from safer_steer.actors.endpoint.address import KEY_VARIABLE, check_base_url, is_loopback
from safer_steer.actors.endpoint.client import EndpointModel
from safer_steer.actors.endpoint.images import ImageFragments
from safer_steer.actors.endpoint.server import Endpoint
from safer_steer.limits import Limits, Price, RetryPolicy

__all__ = [
    "KEY_VARIABLE",
    "Endpoint",
    "EndpointModel",
    "ImageFragments",
    "Limits",
    "Price",
    "RetryPolicy",
    "check_base_url",
    "is_loopback",
]
