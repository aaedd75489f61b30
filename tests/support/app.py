"""The reference rule for Python's servers: `app` speaks ASGI (uvicorn, hypercorn), `wsgi` WSGI (gunicorn).

Each reply names the connection that carried it, by the client's port, in X-UserId.
"""
from urllib.parse import parse_qs


def allowed(query):
    return parse_qs(query).get("token", [""])[-1] == "123"


async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    status = 200 if allowed(scope["query_string"].decode("latin-1")) else 403
    headers = [(b"x-userid", str(scope["client"][1]).encode()), (b"content-length", b"0")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


def wsgi(environ, start_response):
    status = "200 OK" if allowed(environ["QUERY_STRING"]) else "403 Forbidden"
    start_response(status, [("X-UserId", environ["REMOTE_PORT"])])
    return [b""]
